// wasi:keyvalue in this process's memory, for components that jco has transpiled:
// store, batch and atomics of both drafts, without dependencies. It keeps manykv's
// promises and limits, which makes it the standard by which the guests are tested.

const MAX_KEY = 4 << 10;
const MAX_VALUE = 8 << 20;
const MAX_BATCH_KEYS = 10_000;
const MAX_BATCH_BYTES = 32 << 20;
const MAX_ANSWER = 64 << 20;
const MAX_HANDLES = 4096; // more is a leak
const PAGE_KEYS = 1000;
const MAX_NUMBER = 2n ** 63n - 1n;

// What jco turns into a case of the variant `error`.
const noSuchStore = { tag: 'no-such-store' };
const accessDenied = { tag: 'access-denied' };
const other = (text) => ({ tag: 'other', val: text });

const dispose = Symbol.dispose ?? Symbol.for('dispose');

// newHost makes an empty store and what a guest of a draft ('draft', 'draft2') imports.
// The identifiers: "" may be read and written, "readonly" is the same bucket for
// reading, "forbidden" may not be opened, others are none.
export function newHost(draft) {
  const rows = new Map(); // key -> { value, version, place }, in the order of places
  let writes = 0;
  let places = 0n;
  let handles = 0;

  function put(key, value) {
    const place = rows.get(key)?.place ?? places++;
    rows.set(key, { value, version: ++writes, place });
  }

  function take() {
    if (handles === MAX_HANDLES) throw other(`${MAX_HANDLES} handles are open, which is the most`);
    handles++;
  }

  class Bucket {
    readOnly = false;

    get(key) {
      checkKeys([key]);
      return rows.get(key)?.value;
    }

    set(key, value) {
      setAll(this, [[key, value]]);
    }

    delete(key) {
      deleteAll(this, [key]);
    }

    exists(key) {
      checkKeys([key]);
      return rows.has(key);
    }

    // A cursor is the place of the next page's first key, or one before it.
    listKeys(cursor) {
      const from = parseCursor(cursor);
      const keys = [];
      for (const [key, { place }] of rows) {
        if (place < from) continue;
        if (keys.length === PAGE_KEYS) return { keys, cursor: draft === 'draft' ? place : String(place) };
        keys.push(key);
      }
      return { keys, cursor: undefined };
    }

    [dispose]() {
      handles--;
    }
  }

  function checkWrite(bucket) {
    if (bucket.readOnly) throw accessDenied;
  }

  function setAll(bucket, pairs) {
    checkWrite(bucket);
    checkKeys(pairs.map(([key]) => key));
    checkValues(pairs.map(([, value]) => value));
    for (const [key, value] of pairs) put(key, value);
  }

  function deleteAll(bucket, keys) {
    checkWrite(bucket);
    checkKeys(keys);
    for (const key of keys) rows.delete(key);
  }

  const store = {
    Bucket,
    open(identifier) {
      if (identifier === 'forbidden') throw accessDenied;
      if (identifier !== '' && identifier !== 'readonly') throw noSuchStore;
      take();
      const bucket = new Bucket();
      bucket.readOnly = identifier === 'readonly';
      return bucket;
    },
  };

  const batch = {
    getMany(bucket, keys) {
      checkKeys(keys);
      let size = 0;
      return keys.map((key) => {
        const row = rows.get(key);
        if (row === undefined) return undefined;
        size += row.value.length;
        if (size > MAX_ANSWER) throw other(`an answer of more than ${MAX_ANSWER} bytes`);
        return [key, row.value];
      });
    },

    setMany: setAll,
    deleteMany: deleteAll,
  };

  const atomics = {
    increment(bucket, key, delta) {
      checkWrite(bucket);
      checkKeys([key]);
      const sum = parseNumber(rows.get(key)?.value) + delta;
      if (delta > MAX_NUMBER || sum > MAX_NUMBER || sum < -MAX_NUMBER - 1n) throw other(`an increment by ${delta} overflows 64 bits`);
      put(key, Buffer.from(String(sum)));
      return sum;
    },
  };

  class Cas {
    constructor(bucket, key) {
      take();
      this.bucket = bucket;
      this.key = key;
      this.row = rows.get(key);
    }

    static new(bucket, key) {
      checkKeys([key]);
      return new Cas(bucket, key);
    }

    current() {
      return this.row?.value;
    }

    [dispose]() {
      handles--;
    }
  }

  // swap owns its cas: nobody else will drop it.
  function swap(cas, value) {
    cas[dispose]();
    try {
      checkWrite(cas.bucket);
      checkValues([value]);
    } catch (error) {
      throw { tag: 'store-error', val: error };
    }
    if (rows.get(cas.key)?.version !== cas.row?.version) throw { tag: 'cas-failed', val: new Cas(cas.bucket, cas.key) };
    put(cas.key, value);
  }

  if (draft === 'draft2') Object.assign(atomics, { Cas, swap });

  return {
    draft,
    store,
    batch,
    atomics,
    rows,
    handles: () => handles,
    imports: () => ({ 'wasi:keyvalue/store': store, 'wasi:keyvalue/batch': batch, 'wasi:keyvalue/atomics': atomics }),
  };
}

// checkBatch checks how much is asked for at once.
function checkBatch(keys, bytes) {
  if (keys > MAX_BATCH_KEYS) throw other(`a batch of ${keys} keys, at most ${MAX_BATCH_KEYS} are allowed`);
  if (bytes > MAX_BATCH_BYTES) throw other(`a batch of ${bytes} bytes, at most ${MAX_BATCH_BYTES} are allowed`);
}

function checkKeys(keys) {
  const sizes = keys.map((key) => Buffer.byteLength(key));
  for (const size of sizes) {
    if (size > MAX_KEY) throw other(`a key of ${size} bytes, at most ${MAX_KEY} are allowed`);
  }
  checkBatch(keys.length, sizes.reduce((sum, size) => sum + size, 0));
}

function checkValues(values) {
  for (const { length } of values) {
    if (length > MAX_VALUE) throw other(`a value of ${length} bytes, at most ${MAX_VALUE} are allowed`);
  }
  checkBatch(values.length, values.reduce((sum, { length }) => sum + length, 0));
}

function parseCursor(cursor) {
  if (cursor === undefined) return 0n;
  if (typeof cursor === 'string' && !/^\d{1,20}$/.test(cursor)) throw other(`no page has given the cursor "${cursor}"`);
  return BigInt(cursor);
}

// parseNumber reads a counter: the one decimal form that a number of 64 bits has.
function parseNumber(value) {
  if (value === undefined) return 0n;
  const text = Buffer.from(value).toString('latin1');
  const number = /^-?\d{1,19}$/.test(text) ? BigInt(text) : undefined;
  if (number === undefined || String(number) !== text || BigInt.asIntN(64, number) !== number) {
    throw other(`a value of ${value.length} bytes is no decimal number of 64 bits`);
  }
  return number;
}
