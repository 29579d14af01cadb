// Hosts whose counters are not as they should be, or their swaps, which draft2 has.

import { around, bytes, inAtomics, inBucket, inCas, other, renamed, text, writable } from './break.mjs';

export const atomics = [
  {
    name: 'counters are 8 bytes',
    make: (host) =>
      inBucket('get', (get, key) => {
        const value = get(key);
        return key.includes('/counter/') && value ? new Uint8Array(BigInt64Array.of(BigInt(text(value))).buffer) : value;
      })(host),
    report: /^counters: get of 5 \+ 1: got "\\x06\\x00\\x00\\x00\\x00\\x00\\x00\\x00", want "6"/,
  },
  {
    name: 'increment of an absent key is an error',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        if (!host.rows.has(key)) throw other('no such key');
        return increment(bucket, key, delta);
      })(host),
    report: /^limits|counters: increment of an absent key by 10: got other: no such key, want 10/,
  },
  {
    name: 'increment returns what was there before',
    make: inAtomics('increment', (increment, bucket, key, delta) => increment(bucket, key, delta) - delta),
    report: /^counters: increment of "5" by 1: got 5, want 6/,
  },
  {
    name: 'increment keeps nothing',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        const row = host.rows.get(key);
        const sum = increment(bucket, key, delta);
        row ? host.rows.set(key, row) : host.rows.delete(key);
        return sum;
      })(host),
    report: /^counters: get of 5 \+ 1: got "5", want "6"/,
  },
  {
    name: 'increment by 0 makes no key',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        const sum = increment(bucket, key, delta);
        if (sum === 0n) host.rows.delete(key);
        return sum;
      })(host),
    report: /^counters: get-many: got in place 1 key none/,
  },
  {
    name: 'increment knows no limit for keys',
    make: inAtomics('increment', (increment, bucket, key, delta) => increment(bucket, key.slice(0, 4096), delta)),
    report: /^limits: increment of a key of 5,000 bytes: got /,
  },
  {
    name: 'increment takes what is no number for 0',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        if (Number.isNaN(parseInt(text(host.rows.get(key)?.value ?? '0')))) host.rows.delete(key);
        return increment(bucket, key, delta);
      })(host),
    report: /^what is no number: increment of a value that is no number: got ok, want other/,
  },
  {
    name: 'increment reads as far as there are digits',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        const number = parseInt(text(host.rows.get(key)?.value ?? '0'));
        if (!Number.isNaN(number)) host.rows.get(key)?.value && (host.rows.get(key).value = Buffer.from(`${number}`));
        return increment(bucket, key, delta);
      })(host),
    report: /^what is no number: increment of a value that is no number: got ok, want other/,
  },
  {
    name: 'a refused increment deletes',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        try {
          return increment(bucket, key, delta);
        } catch (error) {
          host.rows.delete(key);
          throw error;
        }
      })(host),
    report: /^what is no number: get after a refused increment: got none, want "five"/,
  },
  {
    name: 'counters are floating point',
    make: inAtomics('increment', (increment, bucket, key, delta) => BigInt(Number(increment(bucket, key, delta)))),
    report: /^large numbers: increment of 2\^53 by 1: got 9007199254740992, want 9007199254740993/,
  },
  {
    name: 'counters wrap around',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        const value = host.rows.get(key)?.value;
        if (value === undefined || !/^-?\d+$/.test(text(value))) return increment(bucket, key, delta);
        const sum = BigInt.asIntN(64, BigInt(text(value)) + delta);
        increment(bucket, key, 0n);
        host.rows.get(key).value = Buffer.from(`${sum}`);
        return host.draft === 'draft' ? BigInt.asUintN(64, sum) : sum;
      })(host),
    report: /^(what is no number: increment .*|large numbers: increment of 2\^63 - 1 by 1): got ok, want other/,
  },
  {
    name: 'counters have no sign',
    only: 'draft',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        if (key !== 'conformance/large-number') return increment(bucket, key, delta);
        const sum = BigInt(text(host.rows.get(key)?.value ?? '0')) + delta;
        if (sum >= 2n ** 64n) throw other('overflow');
        host.store.Bucket.prototype.set.call(bucket, key, Buffer.from(`${sum}`));
        return sum;
      })(host),
    report: /^large numbers: increment of 2\^63 - 1 by 1: got ok, want other/,
  },
  {
    name: 'an increment by 2^64 - 1 is taken for one by -1',
    only: 'draft',
    make: inAtomics('increment', (increment, bucket, key, delta) => increment(bucket, key, BigInt.asIntN(64, delta))),
    report: /^large numbers: increment of 2\^63 - 1 by 2\^64 - 1: got ok, want other/,
  },
  {
    name: 'counters do not go below 0',
    only: 'draft2',
    make: inAtomics('increment', (increment, bucket, key, delta) => {
      if (delta < -1n && delta > -100n) throw other('a decrement');
      return increment(bucket, key, delta);
    }),
    report: /^large numbers: increment of 0 by -3: got other: a decrement, want -3/,
  },
  {
    name: 'a number of 64 bits has no least one',
    only: 'draft2',
    make: inAtomics('increment', (increment, bucket, key, delta) => {
      if (delta === -(2n ** 63n)) throw other('overflow');
      return increment(bucket, key, delta);
    }),
    report: /^large numbers: increment of an absent key by -2\^63: got other: overflow, want -9223372036854775808/,
  },
];

export const swaps = [
  {
    name: 'swap does not compare',
    make: inAtomics('swap', (swap, cas, value) => {
      cas.row = cas.constructor.new(cas.bucket, cas.key).row;
      swap(cas, value);
    }),
    report: /^lost swap: swap after a set: got ok, want cas-failed/,
  },
  {
    name: 'swap compares values',
    make: (host) =>
      inAtomics('swap', (swap, cas, value) => {
        const row = host.rows.get(cas.key);
        if (row && cas.row && Buffer.compare(row.value, cas.row.value) === 0) cas.row = row;
        swap(cas, value);
      })(host),
    report: /^lost swap: swap after a set of the same value: got ok, want cas-failed/,
  },
  {
    name: 'a lost swap is any other error',
    make: inAtomics('swap', renamed('cas-failed', { tag: 'store-error', val: other('conflict') })),
    report: /^lost swap: swap after a set: got other: conflict, want cas-failed/,
  },
  {
    name: 'a lost swap is made all the same',
    make: (host) =>
      inAtomics('swap', (swap, cas, value) => {
        const { bucket, key } = cas;
        try {
          swap(cas, value);
        } catch (error) {
          new host.store.Bucket().set(key, value);
          throw error;
        }
      })(host),
    report: /^lost swap: get after a lost swap: got "mine", want "foreign"/,
  },
  {
    name: 'the cas of a lost swap is the old one',
    make: inAtomics('swap', (swap, cas, value) => {
      const { row } = cas;
      try {
        swap(cas, value);
      } catch (error) {
        if (error.tag === 'cas-failed') error.val.row = row;
        throw error;
      }
    }),
    report: /^lost swap: current of the fresh cas: got "first", want "foreign"/,
  },
  {
    name: 'the cas of a lost swap is never outdated',
    make: (host) => {
      const fresh = new WeakSet();
      inAtomics('swap', (swap, cas, value) => {
        if (fresh.has(cas)) cas.row = host.rows.get(cas.key);
        try {
          swap(cas, value);
        } catch (error) {
          if (error.tag === 'cas-failed') fresh.add(error.val);
          throw error;
        }
      })(host);
    },
    report: /^lost swap: swap of a cas that is outdated again: got ok, want cas-failed/,
  },
  {
    name: 'swap writes nothing',
    make: inAtomics('swap', () => {}),
    report: /^swap: get after swap: got "wow", want "swapped"/,
  },
  {
    name: 'swap does not see increments',
    make: (host) =>
      inAtomics('increment', (increment, bucket, key, delta) => {
        const version = host.rows.get(key)?.version;
        const sum = increment(bucket, key, delta);
        if (version !== undefined) host.rows.get(key).version = version;
        return sum;
      })(host),
    report: /^lost swap: swap after an increment: got ok, want cas-failed/,
  },
  {
    name: 'swap does not see deletes',
    make: (host) =>
      inAtomics('swap', (swap, cas, value) => {
        if (!host.rows.has(cas.key)) cas.row = undefined;
        swap(cas, value);
      })(host),
    report: /^lost swap: swap after a delete: got ok, want cas-failed/,
  },
  {
    name: 'swap of an absent key fails',
    make: inAtomics('swap', (swap, cas, value) => {
      if (cas.row === undefined) throw { tag: 'store-error', val: other('no such key') };
      swap(cas, value);
    }),
    report: /^(lost swap: swap of a deleted key|swap of an absent key: swap): got other: no such key, want ok/,
  },
  {
    name: 'swap takes an empty value for none',
    make: (host) =>
      inAtomics('swap', (swap, cas, value) => {
        if (cas.row === undefined && host.rows.get(cas.key)?.value.length === 0) cas.row = host.rows.get(cas.key);
        swap(cas, value);
      })(host),
    report: /^swap of an absent key: swap after an empty set: got ok, want cas-failed/,
  },
  {
    name: 'current is empty for an absent key',
    make: inCas('current', (current) => current() ?? bytes()),
    report: /^(lost swap: current after a delete|swap of an absent key: current): got "", want none/,
  },
  {
    name: 'current is absent for an empty value',
    make: inCas('current', (current) => (current()?.length ? current() : undefined)),
    report: /^swap: current of an empty value: got none, want ""/,
  },
  {
    name: 'current is what is there, and swap compares with what was there',
    make: (host) =>
      inCas('current', function () {
        return host.rows.get(this.key)?.value;
      })(host),
    report: /^current: swap after current said what is there: got cas-failed, want ok/,
  },
  {
    name: 'new makes the key',
    make: (host) =>
      around(host.atomics.Cas, 'new', (make, bucket, key) => {
        if (!host.rows.has(key)) new host.store.Bucket().set(key, bytes());
        return make(bucket, key);
      }),
    report: /^swap of an absent key: current: got "", want none/,
  },
  {
    name: 'new knows no limit',
    make: (host) => around(host.atomics.Cas, 'new', (make, bucket, key) => make(bucket, key.slice(0, 4096))),
    report: /^limits of swap: new of a key of 5,000 bytes: got ok, want other/,
  },
  {
    name: 'swap knows no limit',
    make: inAtomics('swap', (swap, cas, value) => swap(cas, value.subarray(0, 8 << 20))),
    report: /^limits of swap: swap for 9 MiB: got ok, want the store's error/,
  },
  {
    name: 'every swap that fails is lost',
    make: inAtomics('swap', (swap, cas, value) => {
      try {
        swap(cas, value);
      } catch (error) {
        throw error.tag === 'cas-failed' ? error : { tag: 'cas-failed', val: cas.constructor.new(cas.bucket, cas.key) };
      }
    }),
    report: /^limits of swap: swap for 9 MiB: got cas-failed, want the store's error/,
  },
  {
    name: 'a cas that was dropped is never forgotten',
    make: (host) => {
      let made = 0;
      around(host.atomics.Cas, 'new', (make, bucket, key) => {
        if (++made > 4096) throw other('too many handles');
        return make(bucket, key);
      });
    },
    report: /^limits of swap: new, 5,000 times: got other: too many handles, want ok/,
  },
  {
    name: 'readonly does not hinder swap',
    make: inAtomics('swap', (swap, cas, value) => {
      cas.bucket = writable;
      swap(cas, value);
    }),
    report: /^reading only: swap: got ok, want the store's error/,
  },
].map((fault) => ({ ...fault, only: 'draft2' }));
