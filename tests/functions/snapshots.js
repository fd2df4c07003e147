'use strict';
// What the tests of snapshot sandboxes ask of a function, in JavaScript; snapshots.py and Snapshots.java do the same.
const crypto = require('node:crypto');
const fs = require('node:fs');
const net = require('node:net');
const { promisify } = require('node:util');
const { Worker } = require('node:worker_threads');

let calls = 0;
let connection = null;
let last = process.hrtime.bigint();
let worker = null;
const { random } = Math; // as lodash does
const events = [];
let broken = false;
process.on('exit', () => fs.writeSync(2, 'cleaned up\n')); // past what goes with the channel

exports.beforeCheckpoint = async () => {
  if (broken) throw new RangeError('deliberate');
  events.push('checkpoint');
};
exports.afterRestore = () => events.push('restore');
process.on('hydra:checkpoint', () => events.push('listener before'));
process.on('hydra:restore', async () => events.push('listener after'));

exports.main = async (args) => {
  calls += 1;
  switch (args.do ?? 'count') {
    case 'count':
      return calls;
    case 'identity': {
      const now = process.hrtime.bigint();
      const back = now < last;
      last = now;
      return {
        random: random(),
        uuid: crypto.randomUUID(),
        web: globalThis.crypto.randomUUID(),
        values: Array.from(globalThis.crypto.getRandomValues(new Uint8Array(8))),
        secret: crypto.randomBytes(8).toString('hex'),
        later: (await promisify(crypto.randomBytes)(8)).toString('hex'),
        int: crypto.randomInt(2 ** 47),
        key: crypto.generateKeyPairSync('x25519').publicKey.export({ format: 'jwk' }).x,
        worker: await inWorker(),
        time: Date.now() / 1000,
        back,
      };
    }
    case 'wait':
      return received(net.connect(args.port, '127.0.0.1'));
    case 'connect':
      connection = net.connect(args.port, '127.0.0.1');
      connection.on('error', (error) => { connection.failed = error; });
      return received(connection);
    case 'use':
      return received(connection).catch((error) => (error.code === 'ECONNRESET' ? 'reset' : error.code));
    case 'write':
      fs.appendFileSync(`${args.tmpDir}/note`, args.text);
      return 'written';
    case 'read':
      return fs.readFileSync(`${args.tmpDir}/note`, 'utf8');
    case 'crash':
      return process.abort();
    case 'events':
      return events;
    case 'break':
      broken = true;
      return 'broken';
    default:
      throw new RangeError(`unknown: ${args.do}`);
  }
};

function received(socket) {
  return new Promise((resolve, reject) => {
    if (socket.failed) reject(socket.failed);
    // What comes while nobody listens is for the next one.
    socket.once('data', (bytes) => {
      socket.pause();
      resolve(bytes.toString());
    });
    socket.resume();
    socket.once('end', () => resolve('end'));
    socket.once('error', reject);
  });
}

/** Random numbers of a thread that lives through the checkpoint. */
function inWorker() {
  worker ??= new Worker(`
    const { parentPort } = require('worker_threads');
    const { randomInt, randomUUID } = require('crypto');
    parentPort.on('message', () => parentPort.postMessage([Math.random(), randomUUID(), crypto.randomUUID(), randomInt(2 ** 47)]));
  `, { eval: true });
  worker.postMessage('');
  return new Promise((resolve) => worker.once('message', resolve));
}
