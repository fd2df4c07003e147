// Arguments, results, errors and output: the same in both modes.
'use strict';

const assert = require('node:assert');
const { after, describe, test } = require('node:test');
const { file, removeAll } = require('./code.js');
const { startFunction, startHost } = require('./driver.js');

after(removeAll);

const MODES = {
  function: async () => startFunction(),
  host: async () => {
    const { open, stop } = await startHost();
    return { peer: await open(), stop };
  },
};

for (const [mode, start] of Object.entries(MODES)) {
  /** Runs `use(peer)` with the function of `source` loaded. */
  const withFunction = async (source, use, more) => {
    const { peer, stop } = await start();
    try {
      assert.deepStrictEqual(await peer.load(file(source), null, more), { kind: 'LOADED', text: '' });
      await use(peer);
    } finally {
      stop();
    }
  };
  const raised = async (peer, value = '') => {
    const { kind, text } = await peer.invoke(value);
    assert.strictEqual(kind, 'RAISED', text);
    return JSON.parse(text);
  };

  describe(`${mode} mode`, () => {
    test('passes arguments', () => withFunction('exports.main = (a) => [typeof a, a]', async (peer) => {
      const cases = [
        ['{"a":"ä€😀"}', '["object",{"a":"ä€😀","tmpDir":"/tmp/of-test"}]'],
        ['{"tmpDir":"/etc"}', '["object",{"tmpDir":"/tmp/of-test"}]'],
        ['', '["object",{"tmpDir":"/tmp/of-test"}]'],
        ['[1,2]', '["object",[1,2]]'],
        ['null', '["object",null]'],
        ['17', '["number",17]'],
        ['"text"', '["string","text"]'],
        ['not JSON', '["string","not JSON"]'],
      ];
      for (const [text, expected] of cases) {
        assert.deepStrictEqual(await peer.invoke(text), { kind: 'RESULT', text: expected });
      }
    }));

    test('writes results', () => withFunction('exports.main = ({ e }) => eval(e)', async (peer) => {
      const cases = [
        ['undefined', 'null'], ['"as it is: \\u20ac"', 'as it is: €'], ['""', ''], ['({a: [1, undefined]})', '{"a":[1,null]}'],
        ['new Date(0)', '"1970-01-01T00:00:00.000Z"'], ['Promise.resolve(7)', '7'], ['({ then(f) { f({ then(g) { g(8) } }) } })', '8'],
        ['({ toJSON: () => "mine" })', '"mine"'], ['false', 'false'], ['(async () => { await null; return {} })()', '{}'],
        ['new Promise((r) => setTimeout(r, 1, "later"))', 'later'], ['"\\ud800"', '\ufffd'],
      ];
      for (const [e, expected] of cases) {
        assert.deepStrictEqual(await peer.invoke({ e }), { kind: 'RESULT', text: expected }, e);
      }
    }));

    test('refuses results that are no JSON', () => withFunction('exports.main = ({ e }) => eval(e)', async (peer) => {
      for (const e of ['10n', '(() => { const a = {}; a.a = a; return a })()', '() => 1', 'Symbol("s")', 'Promise.resolve(1n)', '({ toJSON() { throw 1 } })']) {
        assert.strictEqual((await raised(peer, { e })).type, 'InvalidResult', e);
      }
      assert.strictEqual((await peer.invoke({ e: '1' })).text, '1');
    }));

    test('honours maxResult in bytes', () => withFunction('exports.main = ({ n }) => "é".repeat(n)', async (peer) => {
      assert.strictEqual((await peer.invoke({ n: 50 })).kind, 'RESULT');
      const error = await raised(peer, { n: 51 });
      assert.deepStrictEqual([error.type, error.message], ['ResultTooLarge', 'the result has 102 bytes, and at most 100 are allowed']);
    }, { maxResult: 100 }));

    test('carries large arguments and results', () => withFunction('exports.main = ({ s }) => s + s', async (peer) => {
      const s = 'ä€x'.repeat(1 << 20);
      const { kind, text } = await peer.invoke({ s });
      assert.strictEqual(kind, 'RESULT');
      assert.ok(text === s + s);
    }, { maxResult: 1 << 26 }));

    test('reports what was thrown, and goes on', () => withFunction(
      `class MyError extends Error { get name() { return 'MyError' } }
       exports.main = async ({ how }) => {
         if (how === 'sync') { JSON.parse('{') }
         if (how === 'own') { await null; throw new MyError('mine', { cause: new Error('deeper') }) }
         if (how === 'value') { throw { code: 7 } }
         if (how === 'string') { throw 'text' }
         if (how === 'nothing') { throw undefined }
         if (how === 'hostile') { throw new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 2 } }) }
         if (how === 'long') { throw new Error('é'.repeat(100000)) }
         return 'fine'
       }`,
      async (peer) => {
        assert.strictEqual((await raised(peer, { how: 'sync' })).type, 'SyntaxError');
        const own = await raised(peer, { how: 'own' });
        assert.deepStrictEqual([own.type, own.message], ['MyError', 'mine']);
        assert.match(own.stack, /at (exports\.)?main \(.*code\.js:4:[^]*caused by: Error: deeper/);
        assert.doesNotMatch(own.stack, /guest-agent|node:/);
        assert.strictEqual((await raised(peer, { how: 'value' })).message, '{"code":7}');
        assert.strictEqual((await raised(peer, { how: 'string' })).message, 'text');
        assert.strictEqual((await raised(peer, { how: 'nothing' })).message, 'undefined');
        assert.match((await raised(peer, { how: 'hostile' })).message, /cannot be shown/);
        assert.strictEqual(Buffer.byteLength((await raised(peer, { how: 'long' })).message), 65536);
        assert.strictEqual((await peer.invoke({})).text, 'fine');
      },
    ));

    test('gives an uncaught error to the invocation under way', () => withFunction(
      `exports.main = ({ how }) => {
         if (how === 'timer') { setTimeout(() => { throw new RangeError('in a timer') }, 1); return new Promise((r) => setTimeout(r, 50, 'late')) }
         if (how === 'rejection') { Promise.reject(new RangeError('lost')); return new Promise(() => {}) }
         if (how === 'after') { setTimeout(() => { throw new RangeError('too late') }, 1); return 'first' }
         return new Promise((r) => setTimeout(r, 100, 'own answer'))
       }`,
      async (peer) => {
        assert.strictEqual((await raised(peer, { how: 'timer' })).message, 'in a timer');
        // The answer of the failed invocation comes while this one runs, and is dropped.
        assert.strictEqual((await peer.invoke({})).text, 'own answer');
        assert.strictEqual((await raised(peer, { how: 'rejection' })).message, 'lost');
        assert.strictEqual((await peer.invoke({ how: 'after' })).text, 'first');
        const logged = async () => {
          while (!peer.logged(2).includes('too late')) {
            await new Promise((resolve) => peer.socket.once('data', resolve));
          }
        };
        await logged();
        assert.match(peer.logged(2), /test: uncaught outside of an invocation: RangeError: too late\n {4}at .*code\.js:4:/);
        assert.strictEqual((await peer.invoke({})).text, 'own answer');
      },
    ));

    test('sends what is printed before the answer', () => withFunction(
      `console.log('loading');
       exports.main = ({ n = 0 }) => {
         console.log('a', { b: 1 }); process.stdout.write('no line end'); console.error('error: %d', 7)
         process.stdout.write(Buffer.from([0xe2, 0x82])); process.stdout.write(Buffer.from([0xac])); process.stdout.write('aGk=', 'base64')
         process.stderr.write('😀'.repeat(n)); process.stdout.end(); process.stdout.write('!')
       }`,
      async (peer) => {
        assert.strictEqual(peer.logged(1), 'loading\n');
        assert.strictEqual((await peer.invoke({})).text, 'null');
        assert.strictEqual(peer.logged(1), 'loading\na { b: 1 }\nno line end€hi!');
        assert.strictEqual(peer.logged(2), 'error: 7\n');
        peer.logs.length = 0;
        await peer.invoke({ n: 100001 });
        assert.ok(peer.logged(2) === `error: 7\n${'😀'.repeat(100001)}`);
        assert.ok(peer.logs.every((log) => log.bytes <= 65536));
      },
    ));

    test('sends lines while the function runs, and keeps none back', () => withFunction(
      'exports.main = () => { for (let i = 0; ; i++) { console.log("x".repeat(100), i) } }',
      async (peer) => {
        const answer = peer.invoke({});
        while (peer.logs.length < 5000) {
          await new Promise((resolve) => peer.socket.once('data', resolve));
        }
        assert.match(peer.logged(1), /^(x{100} \d+\n)+$/);
        void answer;
      },
    ));

    test('keeps the event loop running between invocations', () => withFunction(
      'let ticks = 0; setInterval(() => ticks++, 1); exports.main = () => ticks',
      async (peer) => {
        let last = Number((await peer.invoke({})).text);
        for (const until = last + 3; last < until;) {
          await new Promise((resolve) => setTimeout(resolve, 5));
          last = Number((await peer.invoke({})).text);
        }
      },
    ));

    test('does not hand its descriptors to child processes, nor its arguments to the function', () => withFunction(
      `exports.main = () => [process.argv.length, require('child_process').execFileSync('/bin/sh', ['-c', 'ls -l /proc/self/fd']).toString()]`,
      async (peer) => {
        const [length, descriptors] = JSON.parse((await peer.invoke({})).text);
        assert.ok(length <= 2);
        // The child's own standard streams may be sockets.
        const sockets = descriptors.split('\n').filter((line) => /socket:/.test(line) && !/ [012] -> /.test(line));
        assert.deepStrictEqual(sockets, []);
      },
    ));
  });
}
