// How agents and isolates start and end.
'use strict';

const assert = require('node:assert');
const { after, test } = require('node:test');
const { file, removeAll } = require('./code.js');
const { startFunction, startHost } = require('./driver.js');

after(removeAll);

const HELLO = { protocol: 1, language: 'javascript' };

async function withHost(use) {
  const host = await startHost();
  try {
    await use(host);
  } finally {
    host.stop();
  }
}

async function closed(control) {
  const { kind, text } = await control.next();
  assert.strictEqual(kind, 'CLOSED');
  return JSON.parse(text);
}

test('function mode: says hello, and ends with status 0 at the end of the channel', async () => {
  const { peer, hello, exited } = await startFunction();
  assert.deepStrictEqual({ ...hello, runtime: undefined }, { ...HELLO, runtime: undefined });
  assert.match(hello.runtime, /^Node\.js \d+\.\d+/);
  await peer.load(file('setInterval(() => {}, 1000); exports.main = () => 1'));
  peer.socket.end();
  assert.deepStrictEqual(await exited, { code: 0, signal: null });
});

for (const [name, bytes] of [
  ['an unknown kind', [0, 0, 0, 0, 0x77, 0, 0, 0]],
  ['a kind of the other side', [0, 0, 0, 0, 0x04, 0, 0, 0]],
  ['a length over the limit', [1, 0, 0, 4, 0x82, 0, 0, 0]],
  ['reserved bytes that are not zero', [0, 0, 0, 0, 0x82, 0, 1, 0]],
]) {
  test(`function mode: ends with status 70 at ${name}`, async () => {
    const { peer, exited } = await startFunction();
    peer.socket.write(Buffer.from(bytes.slice(0, 3)));
    setImmediate(() => peer.socket.write(Buffer.from(bytes.slice(3))));
    assert.deepStrictEqual(await exited, { code: 70, signal: null });
  });
}

test('function mode: takes frames in pieces, and several at once', async () => {
  const { peer, stop } = await startFunction();
  await peer.load(file('exports.main = (a) => a.n'));
  const frame = (n) => Buffer.from(`\x07\0\0\0\x82\0\0\0{"n":${n}}`, 'latin1');
  for (let cut = 1; cut < 15; cut++) {
    peer.socket.write(frame(1).subarray(0, cut));
    await new Promise((resolve) => setTimeout(resolve, 2));
    peer.socket.write(frame(1).subarray(cut));
    assert.strictEqual((await peer.next()).text, '1');
  }
  peer.socket.write(Buffer.concat([frame(1), frame(2), frame(3)]));
  assert.deepStrictEqual([await peer.next(), await peer.next(), await peer.next()].map((answer) => answer.text), ['1', '2', '3']);
  stop();
});

test('function mode: an invocation right behind LOAD waits for it', async () => {
  const { peer, stop } = await startFunction();
  const loaded = peer.load(file('await new Promise((r) => setTimeout(r, 20)); export const main = () => "x"', 'x.mjs'));
  const answer = peer.invoke({});
  assert.deepStrictEqual([(await loaded).kind, await answer], ['LOADED', { kind: 'RESULT', text: 'x' }]);
  stop();
});

test('function mode: process.exit ends it with the unfinished line sent', async () => {
  const { peer, exited } = await startFunction();
  await peer.load(file('exports.main = () => { process.stdout.write("bye"); process.exit(3) }'));
  assert.strictEqual(await peer.invoke({}), null);
  assert.strictEqual(peer.logged(1), 'bye');
  assert.deepStrictEqual(await exited, { code: 3, signal: null });
});

test('host: opens isolates that share nothing, and closes them', () => withHost(async ({ open, control, hello, exited }) => {
  assert.deepStrictEqual({ ...hello, runtime: undefined }, { ...HELLO, runtime: undefined });
  const code = file('globalThis.count ??= 0; exports.main = () => ++globalThis.count');
  const isolates = await Promise.all([open(), open(), open()]);
  assert.deepStrictEqual(isolates.map((peer) => peer.hello.token), ['token-1', 'token-2', 'token-3']);
  for (const peer of isolates) {
    assert.strictEqual((await peer.load(code)).kind, 'LOADED');
    assert.strictEqual((await peer.invoke({})).text, '1');
  }
  isolates[0].socket.end();
  assert.deepStrictEqual(await closed(control), { isolate: 1, reason: 'closed', outOfMemory: false });
  control.send('CLOSE', { isolate: 2 });
  control.send('CLOSE', { isolate: 17 });
  assert.deepStrictEqual(await closed(control), { isolate: 2, reason: 'closed', outOfMemory: false });
  assert.strictEqual((await isolates[2].invoke({})).text, '2');
  control.socket.end();
  assert.deepStrictEqual(await exited, { code: 0, signal: null });
}));

test('host: CLOSE ends an endless loop', () => withHost(async ({ open, control }) => {
  const [busy, other] = await Promise.all([open(), open()]);
  await busy.load(file('exports.main = () => { console.log("in the loop"); for (;;); }'));
  await other.load(file('exports.main = () => "fine"'));
  const answer = busy.invoke({});
  while (busy.logs.length === 0) {
    await new Promise((resolve) => busy.socket.once('data', resolve));
  }
  control.send('CLOSE', { isolate: busy.isolate });
  assert.deepStrictEqual(await closed(control), { isolate: busy.isolate, reason: 'closed', outOfMemory: false });
  assert.strictEqual(await answer, null);
  assert.strictEqual((await other.invoke({})).text, 'fine');
}));

const MEMORY_EATERS = {
  'many objects': 'const a = []; for (;;) { a.push({ n: a.length, s: String(a.length) }) }',
  'long strings': 'const a = []; for (;;) { a.push(Buffer.alloc(100000, 97).toString("latin1") + a.length) }',
  'large arrays': 'const a = []; for (;;) { a.push(new Array(1e6).fill(1.5)) }',
  'promises': 'const a = []; for (;;) { a.push(Promise.resolve(a.length)) }',
};
for (const [name, body] of Object.entries(MEMORY_EATERS)) {
  test(`host: an isolate that runs out of memory (${name}) ends alone`, () => withHost(async ({ open, control }) => {
    const [eater, other] = await Promise.all([open(32), open(32)]);
    await eater.load(file(`exports.main = () => { ${body} }`));
    await other.load(file('exports.main = () => "fine"'));
    const answer = eater.invoke({});
    assert.deepStrictEqual(await closed(control), { isolate: eater.isolate, reason: 'the isolate ran out of memory', outOfMemory: true });
    assert.strictEqual(await answer, null);
    assert.strictEqual((await other.invoke({})).text, 'fine');
    assert.strictEqual((await open(32)).isolate, 3);
  }));
}

test('host: process.exit and bytes that are no frame end one isolate', () => withHost(async ({ open, control }) => {
  const [leaver, broken, other] = await Promise.all([open(), open(), open()]);
  await leaver.load(file('exports.main = () => process.exit(0)'));
  await other.load(file('exports.main = () => "fine"'));
  assert.strictEqual(await leaver.invoke({}), null);
  assert.strictEqual((await closed(control)).reason, 'the function ended its isolate with status 0');
  broken.socket.write('not a frame');
  assert.match((await closed(control)).reason, /^not a frame/);
  assert.strictEqual((await other.invoke({})).text, 'fine');
}));

test('host: an isolate that cannot connect is closed with the reason', () => withHost(async ({ control }) => {
  control.send('OPEN', { isolate: 9, socket: '/no/such/socket', token: 't', memory: 64 });
  const { isolate, reason, outOfMemory } = await closed(control);
  assert.deepStrictEqual([isolate, outOfMemory], [9, false]);
  assert.match(reason, /ENOENT.*\/no\/such\/socket/);
}));
