// Hosts that let in whom they should not, or mistake handles; and that use the
// memory of the guest in another way than the canonical ABI has it.

import { inAtomics, inBatch, inBucket, inStore, other, renamed, writable } from './break.mjs';

export const access = [
  {
    name: 'readonly is another bucket',
    make: inBucket('get', function (get, key) {
      return this.readOnly ? undefined : get(key);
    }),
    report: /^reading only: get: got none, want "v"/,
  },
  {
    name: 'readonly does not open',
    make: inStore('open', (open, id) => open(id === 'readonly' ? 'forbidden' : id)),
    report: /^reading only: open of "readonly": got access-denied, want ok/,
  },
  {
    name: 'readonly can be written',
    make: inStore('open', (open, id) => open(id === 'readonly' ? '' : id)),
    report: /^reading only: set: got ok, want access-denied/,
  },
  {
    name: 'readonly does not hinder delete',
    make: inBucket('delete', function (remove, key) {
      const { readOnly } = this;
      this.readOnly = false;
      remove(key);
      this.readOnly = readOnly;
    }),
    report: /^reading only: delete: got ok, want access-denied/,
  },
  ...['set-many', 'delete-many'].map((name) => ({
    name: `readonly does not hinder ${name}`,
    make: inBatch(name.replace('-m', 'M'), (write, bucket, list) => write(writable, list)),
    report: new RegExp(`^reading only: ${name}: got ok, want access-denied`),
  })),
  {
    name: 'readonly does not hinder increment',
    make: inAtomics('increment', (increment, bucket, key, delta) => increment(writable, key, delta)),
    report: /^reading only: increment: got ok, want access-denied/,
  },
  {
    name: 'a write that is denied is made all the same',
    make: inBatch('setMany', (set, bucket, pairs) => {
      set(writable, pairs);
      set(bucket, pairs);
    }),
    report: /^(limits of batches: .*|reading only: get after refused writes: got "changed", want "v")/,
  },
  {
    name: 'a write that is denied is said to be another error',
    make: inBucket('set', renamed('access-denied', other('read only'))),
    report: /^reading only: set: got other: read only, want access-denied/,
  },
  {
    name: 'handles that were dropped are never forgotten',
    make: (host) => {
      let opened = 0;
      inStore('open', (open, id) => {
        if (++opened > 4096) throw other('too many handles');
        return open(id);
      })(host);
    },
    report: /^handles: open, 10,000 times: got other: too many handles, want ok/,
  },
  {
    name: 'three handles are too many',
    make: (host) =>
      inStore('open', (open, id) => {
        if (host.handles() > 2) throw other('in use');
        return open(id);
      })(host),
    report: /^handles: open of a fourth handle: got other: in use, want ok/,
  },
  {
    name: 'to drop a handle closes the bucket',
    make: (host) => {
      let closed = false;
      const dispose = Symbol.dispose ?? Symbol.for('dispose');
      inStore('open', (open, id) => ((closed = false), open(id)))(host);
      inBucket(dispose, (drop) => (drop(), (closed = true)))(host);
      inBucket('set', (set, key, value) => {
        if (closed && key === 'conformance/handle') throw other('closed');
        set(key, value);
      })(host);
    },
    report: /^handles: set through the fourth when the second is gone: got other: closed, want ok/,
  },
  {
    name: 'the last identifier holds for all handles',
    make: (host) => {
      let last;
      inStore('open', (open, id) => (last = open(id)))(host);
      inBucket('set', function (set, key, value) {
        if (last.readOnly && key === 'conformance/handle') throw { tag: 'access-denied' };
        set(key, value);
      })(host);
    },
    report: /^handles: |^reading only: /,
  },
];

export const memory = [
  {
    name: 'many strings in one block of memory',
    realloc: (realloc) => {
      let block;
      let used = 0;
      return (old, oldSize, align, size) => {
        if (size === 0 || size > 64 || align > 1) return realloc(old, oldSize, align, size);
        block ??= realloc(0, 0, 8, 1 << 20);
        used += 64;
        return block + used;
      };
    },
    report: /^memory: strings or lists that were not allocated by themselves: got \d+, want 0/,
  },
  {
    name: 'memory that nobody gets',
    realloc: (realloc) => (...args) => (realloc(0, 0, 1, 1), realloc(...args)),
    report: /^memory: blocks that nobody has freed: got \d+, want 0/,
  },
];
