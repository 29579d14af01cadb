// Hosts whose batches are not as they should be.

import { bytes, inBatch, inBucket, other, tooLong, unlimited } from './break.mjs';

export const batch = [
  {
    name: 'get-many leaves absent keys out',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, keys).filter(Boolean)),
    report: /^order of a batch: get-many of another order.*: got 4, want 6 elements/,
  },
  {
    name: 'get-many answers in the order of keys',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, [...keys].sort())),
    report: /^order of a batch: get-many of another order.*: got in place 0 key/,
  },
  {
    name: 'get-many answers backwards',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, keys).reverse()),
    report: /^order of a batch: get-many: got in place 0 key/,
  },
  {
    name: 'get-many has the keys in order, but other values',
    make: inBatch('getMany', (get, bucket, keys) => {
      const values = get(bucket, [...keys].sort()).filter(Boolean);
      return get(bucket, keys).map((pair) => pair && [pair[0], values.shift()[1]]);
    }),
    report: /^order of a batch: get-many of another order.*: got in place 0 key/,
  },
  {
    name: 'get-many names other keys',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, keys).map((pair) => pair && [keys[0], pair[1]])),
    report: /^order of a batch: get-many: got in place 1 key/,
  },
  {
    name: 'get-many has an empty value for absent keys',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, keys).map((pair, i) => pair ?? [keys[i], bytes()])),
    report: /^order of a batch: get-many of another order.*: got in place 1 key ".*" with value "", want key none/,
  },
  {
    name: 'get-many has nothing for empty values',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, keys).map((pair) => (pair?.[1].length ? pair : undefined))),
    report: /^order of a batch: get-many of another order.*: got in place 4 key none/,
  },
  {
    name: 'get-many answers duplicates once',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, [...new Set(keys)])),
    report: /^duplicates in a batch: get-many of keys more than once: got 3, want 7 elements/,
  },
  {
    name: 'get-many answers duplicates in the first place only',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, keys).map((pair, i) => (keys.indexOf(keys[i]) === i ? pair : undefined))),
    report: /^duplicates in a batch: get-many of keys more than once: got in place 3 key none/,
  },
  {
    name: 'get-many does not see the last set',
    make: (host) => {
      const old = new Map();
      inBucket('set', (set, key, value) => (old.set(key, host.rows.get(key)?.value), set(key, value)))(host);
      inBatch('getMany', (get, bucket, keys) => get(bucket, keys).map((pair) => pair && [pair[0], old.get(pair[0]) ?? pair[1]]))(host);
    },
    report: /^order of a batch: get-many of keys set since: got in place 1 .* with value "3", want .* "5"/,
  },
  {
    name: 'get-many sees no large values',
    make: inBatch('getMany', (get, bucket, keys) => get(bucket, keys).map((pair) => pair && [pair[0], pair[1].subarray(0, 1 << 20)])),
    report: /^large batches: get-many of 9 MiB: got in place 1 .* of 1048576 bytes, want .* of 3145729 bytes/,
  },
  {
    name: 'get-many knows no limit for its answer',
    make: inBatch('getMany', unlimited([])),
    report: /^large batches: get-many of 70 MiB: got ok, want other/,
  },
  {
    name: 'get-many knows no limit for keys',
    make: inBatch('getMany', (get, bucket, keys) => keys.map((key) => (tooLong(key) ? undefined : get(bucket, [key])[0]))),
    report: /^(large batches: get-many of 70 MiB|limits of batches: get-many with a key of 5,000 bytes): got ok, want other/,
  },
  {
    name: 'in set-many the first of duplicates wins',
    make: inBatch('setMany', (set, bucket, pairs) => set(bucket, [...pairs].reverse())),
    report: /^duplicates in a batch: get of a key set three times: got "first", want "last"/,
  },
  {
    name: 'set-many forgets the last pair',
    make: inBatch('setMany', (set, bucket, pairs) => set(bucket, pairs.slice(0, -1))),
    report: /^order of a batch: /,
  },
  {
    name: 'set-many overwrites nothing',
    make: (host) => inBatch('setMany', (set, bucket, pairs) => set(bucket, pairs.filter(([key]) => !host.rows.has(key))))(host),
    report: /^order of a batch: get-many of keys set since: got in place 0 .* with value "1", want .* "7"/,
  },
  {
    name: 'set-many takes 500 keys',
    make: inBatch('setMany', (set, bucket, pairs) => set(bucket, pairs.slice(0, 500))),
    report: /^pages: 3,000 keys: got "conformance\/page\/0500" in no page/,
  },
  {
    name: 'set-many begins before it has seen all',
    make: inBatch('setMany', (set, bucket, pairs) => pairs.forEach((pair) => set(bucket, [pair]))),
    report: /^limits of batches: get after refused batches: got "changed", want "v"/,
  },
  {
    name: 'set-many leaves out what is too long',
    make: inBatch('setMany', (set, bucket, pairs) => set(bucket, pairs.filter(([key]) => !tooLong(key)))),
    report: /^limits of batches: set-many with a key of 5,000 bytes: got ok, want other/,
  },
  {
    name: 'set-many leaves out what is too large',
    make: inBatch('setMany', (set, bucket, pairs) => set(bucket, pairs.filter(([, value]) => value.length <= 8 << 20))),
    report: /^limits of batches: set-many with a value of 9 MiB: got ok, want other/,
  },
  {
    name: 'delete-many begins before it has seen all',
    make: inBatch('deleteMany', (remove, bucket, keys) => keys.forEach((key) => remove(bucket, [key]))),
    report: /^limits of batches: get after refused batches: got none, want "v"/,
  },
  {
    name: 'delete-many leaves out what is too long',
    make: inBatch('deleteMany', (remove, bucket, keys) => remove(bucket, keys.filter((key) => !tooLong(key)))),
    report: /^limits of batches: delete-many with a key of 5,000 bytes: got ok, want other/,
  },
  {
    name: 'delete-many of an absent key is an error',
    make: (host) =>
      inBatch('deleteMany', (remove, bucket, keys) => {
        if (!keys.every((key) => host.rows.has(key))) throw other('no such key');
        remove(bucket, keys);
      })(host),
    report: /^duplicates in a batch: delete-many of keys more than once: got other: no such key, want ok/,
  },
  {
    name: 'delete-many stops at an absent key',
    make: (host) =>
      inBatch('deleteMany', (remove, bucket, keys) => {
        const absent = keys.findIndex((key) => !host.rows.has(key));
        remove(bucket, absent < 0 ? keys : keys.slice(0, absent));
      })(host),
    report: /^duplicates in a batch: get-many of deleted keys: got in place 2/,
  },
  {
    name: 'delete-many deletes all that begins so',
    make: (host) =>
      inBatch('deleteMany', (remove, bucket, keys) => {
        const within = (key) => keys.some((k) => key.startsWith(k.replace(/\w+$/, '')));
        remove(bucket, [...host.rows.keys()].filter(within));
      })(host),
    report: /^deleting some: get-many: got in place 1 key none/,
  },
  ...['get-many', 'set-many', 'delete-many'].map((name) => ({
    name: `${name} of nothing is an error`,
    make: inBatch(name.replace('-m', 'M'), (call, bucket, list) => {
      if (list.length === 0) throw other('wrong number of arguments');
      return call(bucket, list);
    }),
    report: new RegExp(`^empty batches: ${name} of nothing: got other: wrong number of arguments, want `),
  })),
];
