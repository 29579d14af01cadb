// Hosts whose store is not as it should be, or its listing.

import { all, bytes, inBucket, inStore, other, renamed, unlimited } from './break.mjs';

export const store = [
  {
    name: 'a forbidden bucket opens',
    make: inStore('open', (open, id) => open(id === 'forbidden' ? '' : id)),
    report: /^opening: .*"forbidden".*: got ok, want access-denied/,
  },
  {
    name: 'no bucket is unknown',
    make: inStore('open', (open, id) => open(id === 'nowhere' ? '' : id)),
    report: /^opening: .*"nowhere".*: got ok, want no-such-store/,
  },
  {
    name: 'a forbidden bucket is said to be unknown',
    make: inStore('open', renamed('access-denied', { tag: 'no-such-store' })),
    report: /^opening: .*: got no-such-store, want access-denied/,
  },
  {
    name: 'an error is always other',
    make: inStore('open', renamed('no-such-store', other('no such store'))),
    report: /^opening: .*: got other: no such store, want no-such-store/,
  },
  {
    name: '"" does not open',
    make: inStore('open', (open, id) => open(id || 'nowhere')),
    report: /^opening: open of "": got no-such-store, want ok/,
  },
  {
    name: 'an error has no text',
    make: inBucket('set', renamed('other', other(''))),
    report: /^limits: .*: got other: , want other/,
  },
  {
    name: 'get has an empty value for an absent key',
    make: inBucket('get', (get, key) => get(key) ?? bytes()),
    report: /^one key: get of an absent key: got "", want none/,
  },
  {
    name: 'get has nothing for an empty value',
    make: inBucket('get', (get, key) => (get(key)?.length === 0 ? undefined : get(key))),
    report: /^values: get of an empty value: got none, want ""/,
  },
  {
    name: 'get cuts values at 1 MiB',
    make: inBucket('get', (get, key) => get(key)?.subarray(0, 1 << 20)),
    report: /^values: get of 3 MiB: got .* of 1048576 bytes, want .* of 3145728 bytes/,
  },
  {
    name: 'values are text',
    make: inBucket('set', (set, key, value) => set(key, Buffer.from(Buffer.from(value).toString()))),
    report: /^values: get of every byte/,
  },
  {
    name: 'one byte of a large value is another',
    make: inBucket('set', (set, key, value) => set(key, value.length < 1 << 20 ? value : value.with(12345, value[12345] ^ 1))),
    report: /^values: get of 3 MiB/,
  },
  {
    name: 'set does not overwrite',
    make: (host) => inBucket('set', (set, key, value) => host.rows.has(key) || set(key, value))(host),
    report: /^one key: get after another set: got "baz", want "wow"/,
  },
  {
    name: 'an empty value deletes',
    make: (host) => inBucket('set', (set, key, value) => (set(key, value), value.length > 0 || host.rows.delete(key)))(host),
    report: /^values: get of an empty value: got none, want ""/,
  },
  {
    name: 'delete deletes nothing',
    make: inBucket('delete', () => {}),
    report: /^one key: exists of a deleted key: got true, want false/,
  },
  {
    name: 'delete of an absent key is an error',
    make: (host) =>
      inBucket('delete', (remove, key) => {
        if (!host.rows.has(key)) throw other('no such key');
        remove(key);
      })(host),
    report: /^one key: delete of an absent key: got other: no such key, want ok/,
  },
  {
    name: 'exists is always true',
    make: inBucket('exists', () => true),
    report: /^one key: exists of an absent key: got true, want false/,
  },
  {
    name: 'exists is false for an empty value',
    make: (host) => inBucket('exists', (exists, key) => exists(key) && host.rows.get(key).value.length > 0)(host),
    report: /^values: exists of an empty value: got false, want true/,
  },
  {
    name: 'keys are normalized',
    make: inBucket('set', (set, key, value) => set(key.normalize(), value)),
    report: /^names of keys: get .*: got "conformance\/name\/e\\xcc\\x81", want "conformance\/name\/\\xc3\\xa9"/,
  },
  {
    name: 'keys have no case',
    make: all(
      inBucket('set', (set, key, value) => set(key.toLowerCase(), value)),
      inBucket('get', (get, key) => get(key.toLowerCase())),
    ),
    report: /^names of keys: get .*: got "conformance\/name\/A", want "conformance\/name\/a"/,
  },
  {
    name: 'keys end at a zero',
    make: all(
      inBucket('set', (set, key, value) => set(key.split('\0')[0], value)),
      inBucket('get', (get, key) => get(key.split('\0')[0])),
    ),
    report: /^names of keys: get .*: got "conformance\/name\/a\\x00b", want "conformance\/name\/a"/,
  },
  {
    name: 'a key that ends with a slash is a folder',
    make: inBucket('set', (set, key, value) => key.endsWith('/') || set(key, value)),
    report: /^names of keys: get .*: got none, want "conformance\/name\/"/,
  },
  {
    name: 'set cuts keys',
    make: inBucket('set', (set, key, value) => set(key.slice(0, 4096), value)),
    report: /^limits: set of a key of 5,000 bytes: got ok, want other/,
  },
  {
    name: 'keys have at most 255 bytes',
    make: inBucket('set', (set, key, value) => {
      if (key.length > 255) throw other('a long key');
      set(key, value);
    }),
    report: /^limits: set of a key of 4,096 bytes: got other: a long key, want ok/,
  },
  ...['get', 'exists', 'delete'].map((name) => ({
    name: `${name} knows no limit`,
    make: inBucket(name, unlimited(name === 'exists' ? false : undefined)),
    report: new RegExp(`^limits: ${name} of a key of 5,000 bytes: got ok, want other`),
  })),
  {
    name: 'set cuts values',
    make: inBucket('set', (set, key, value) => set(key, value.subarray(0, 8 << 20))),
    report: /^limits: set of 9 MiB: got ok, want other/,
  },
  {
    name: 'a refused set is made all the same',
    make: inBucket('set', (set, key, value) => {
      if (value.length > 8 << 20) set(key, bytes());
      set(key, value);
    }),
    report: /^limits: get after a set of 9 MiB was refused: got "", want "before"/,
  },
];

// paging says whether the guest has come to check_pages.
const paging = (host) => host.rows.has('conformance/page/0000');

export const listing = [
  {
    name: 'list-keys has one page and no cursor',
    make: (host) =>
      inBucket('listKeys', (list, cursor) => (paging(host) ? { ...list(cursor), cursor: undefined } : list(cursor)))(host),
    report: /^pages: 3,000 keys: got ".*" in no page, want it in one/,
  },
  {
    name: 'list-keys loses the last key of a page',
    make: (host) =>
      inBucket('listKeys', (list, cursor) => {
        const page = list(cursor);
        return { ...page, keys: page.keys.slice(0, paging(host) && page.cursor !== undefined ? -1 : undefined) };
      })(host),
    report: /^pages: 3,000 keys: got ".*" in no page, want it in one/,
  },
  {
    name: 'list-keys has a key in two pages',
    make: (host) => {
      let last = [];
      inBucket('listKeys', (list, cursor) => {
        const page = list(cursor);
        const keys = cursor === undefined ? page.keys : [...last, ...page.keys];
        last = page.keys.slice(-1);
        return { ...page, keys };
      })(host);
    },
    report: /^pages: 3,000 keys: got ".*" twice, want it once/,
  },
  {
    name: 'list-keys begins anew at every cursor',
    make: inBucket('listKeys', (list) => list(undefined)),
    report: /^clean: .*: got other: list-keys gives the cursor that it was given, want ok/,
  },
  {
    name: 'list-keys shows deleted keys',
    make: (host) => {
      const ever = new Set();
      inBucket('set', (set, key, value) => (set(key, value), ever.add(key)))(host);
      inBucket('listKeys', (list, cursor) => {
        const page = list(cursor);
        return page.cursor === undefined ? { ...page, keys: [...ever] } : page;
      })(host);
    },
    report: /^one key: keys after delete: got "conformance\/one\/bar" listed, want it not there/,
  },
  {
    name: 'list-keys shows an overwritten key twice',
    make: (host) => {
      const log = [];
      inBucket('set', (set, key, value) => (set(key, value), log.push(key)))(host);
      inBucket('listKeys', (list, cursor) => (list(cursor).cursor === undefined ? { keys: [...log] } : list(cursor)))(host);
    },
    report: /^one key: keys after another set: got ".*" twice, want it once/,
  },
  {
    name: 'a cursor counts keys, and does not heed what is deleted',
    make: (host) =>
      inBucket('listKeys', (list, cursor) => {
        list(cursor);
        const end = Number(cursor ?? 0) + 1000;
        const all = [...host.rows.keys()];
        const number = host.draft === 'draft' ? BigInt : String;
        return { keys: all.slice(end - 1000, end), cursor: end < all.length ? number(end) : undefined };
      })(host),
    report: /^clean: its keys afterwards: got ".*" listed, want it not there/,
  },
  {
    name: 'a cursor belongs to its handle',
    make: (host) => {
      let holder;
      inBucket('listKeys', function (list, cursor) {
        if (cursor !== undefined && holder !== this) throw other('whose cursor?');
        holder = this;
        return list(cursor);
      })(host);
    },
    report: /^(clean|pages): .*: got other: whose cursor\?, want ok/,
  },
  {
    name: 'any cursor is good',
    only: 'draft2',
    make: inBucket('listKeys', (list, cursor) => list(/^\d*$/.test(cursor ?? '') ? cursor : undefined)),
    report: /^pages: list-keys from a cursor that no page gave: got ok, want other/,
  },
];
