// How faults break a host that newHost has made.

export const bytes = (...values) => Uint8Array.from(values);
export const text = (value) => Buffer.from(value).toString('latin1');
export const other = (why) => ({ tag: 'other', val: why });

// around puts by(original, ...arguments) in the place of a method.
export function around(object, method, by) {
  const original = object[method];
  object[method] = function (...args) {
    return by.call(this, original.bind(this), ...args);
  };
}

export const inStore = (method, by) => (host) => around(host.store, method, by);
export const inBucket = (method, by) => (host) => around(host.store.Bucket.prototype, method, by);
export const inBatch = (method, by) => (host) => around(host.batch, method, by);
export const inAtomics = (method, by) => (host) => around(host.atomics, method, by);
export const inCas = (method, by) => (host) => around(host.atomics.Cas.prototype, method, by);

// all breaks several things at once.
export const all = (...makes) => (host) => makes.forEach((make) => make(host));

// unlimited answers where a limit would refuse.
export const unlimited = (answer) => (call, ...args) => {
  try {
    return call(...args);
  } catch (error) {
    if (error.tag !== 'other') throw error;
    return answer;
  }
};

// renamed says another error.
export const renamed = (tag, error) => (call, ...args) => {
  try {
    return call(...args);
  } catch (thrown) {
    throw thrown.tag === tag ? error : thrown;
  }
};

export const writable = { readOnly: false };
export const tooLong = (key) => key.length > 4096;
