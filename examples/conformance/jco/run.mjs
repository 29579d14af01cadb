// usage: node run.mjs DIR [-v]
//
// Runs the guests that jco has transpiled into DIR/draft and DIR/draft2: first on a
// host that keeps its promises, then on each of the hosts in faults.mjs, which break
// one that the guest has to notice. Exits with 1 if anything is not as it should be;
// -v prints what the guest says of the broken hosts.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

import { faults } from './faults.mjs';
import { newHost } from './host.mjs';

const dir = resolve(process.argv[2]);
const verbose = process.argv[3] === '-v';

// load returns a function that makes an instance of a guest on a host.
async function load(draft) {
  const { instantiate } = await import(pathToFileURL(`${dir}/${draft}/${draft}.js`));
  const compiled = new Map();
  const compile = async (file) => {
    if (!compiled.has(file)) compiled.set(file, await WebAssembly.compile(await readFile(`${dir}/${draft}/${file}`)));
    return compiled.get(file);
  };
  return async (host, realloc = (original) => original) => {
    let memory;
    const guest = await instantiate(compile, host.imports(), async (module, imports) => {
      const { exports } = await WebAssembly.instantiate(module, imports);
      memory ??= exports.memory;
      return { exports: exports.cabi_realloc ? { ...exports, cabi_realloc: realloc(exports.cabi_realloc) } : exports };
    });
    return { ...guest, memoryBytes: () => memory.buffer.byteLength };
  };
}

// run returns what the guest's run has to say, and whether it is an error.
function run(guest) {
  try {
    return { text: guest.run(), failed: false };
  } catch (error) {
    if (typeof error.payload !== 'string') throw error;
    return { text: error.payload, failed: true };
  }
}

const isOwn = (key) => key.startsWith('conformance/');
const own = (host) => [...host.rows.keys()].filter(isOwn);

// A host is never empty: it has 1,500 keys of the guest, from an earlier run, and as
// many of others, in turn.
function newUsedHost(draft) {
  const host = newHost(draft);
  const bucket = new host.store.Bucket();
  for (let i = 0; i < 1500; i++) {
    bucket.set(`other/${i}`, Buffer.from(`${i}`));
    bucket.set(`conformance/left/${i}`, Buffer.from(`${i}`));
  }
  return host;
}

async function testGood(draft, instantiate) {
  const host = newUsedHost(draft);
  const guest = await instantiate(host);

  const runs = [['run', guest], ['run again', guest], ['run in another instance', await instantiate(host)]];
  for (const [name, instance] of runs) {
    const { text, failed } = run(instance);
    console.log(`${draft}: ${name}: ${text}`);
    assert.ok(!failed);
  }
  assert.equal(own(host).length, 0, 'keys that are left by run');

  const hello = guest.hello();
  console.log(hello.replace(/^(?=.)/gm, `${draft}: hello: `).trimEnd());
  assert.match(hello, /^.*c = three\n.*nothing is not there\n.*a = one\n.*b = two\n$/);
  guest.clean();

  assert.throws(() => guest.fail(), { payload: 'as asked' });

  testLoops(host, guest);
  guest.clean();
  assert.equal(own(host).length, 0, 'keys that are left by clean');
  assert.equal(host.rows.size, 1500, 'keys of others');
  assert.equal(host.handles(), 0, 'handles that are left open');
}

function testLoops(host, guest) {
  guest.fill(2500, 100);
  assert.equal(own(host).length, 2500);
  assert.equal(host.rows.get('conformance/bench/00002499').value.length, 100);
  const loops = (rounds) => {
    guest.getManyLoop(rounds, 1000);
    guest.setManyLoop(rounds, 100, 256);
    guest.getLoop(rounds);
    guest.setLoop(rounds);
    guest.existsLoop(rounds);
  };
  loops(1); // now the values are as large as they will be
  loops(1);
  const before = guest.memoryBytes();
  loops(100);
  assert.equal(guest.memoryBytes(), before, 'memory grows with the rounds');
}

// testFault says whether the guest has noticed what a host does wrong.
async function testFault(draft, instantiate, { name, make, realloc, report }) {
  const host = newUsedHost(draft);
  make?.(host);
  const { text, failed } = run(await instantiate(host, realloc));
  const noticed = failed && report.test(text);
  if (verbose || !noticed) console.log(`${draft}: ${name}${noticed ? '' : ', which was NOT NOTICED'}: ${text}`);
  return noticed;
}

let missed = 0;
for (const draft of ['draft', 'draft2']) {
  const instantiate = await load(draft);
  await testGood(draft, instantiate);
  const possible = faults.filter(({ only }) => (only ?? draft) === draft);
  let noticed = 0;
  for (const fault of possible) noticed += await testFault(draft, instantiate, fault);
  console.log(`${draft}: ${noticed} of ${possible.length} broken hosts noticed`);
  missed += possible.length - noticed;
}
process.exitCode = missed > 0 ? 1 : 0;
