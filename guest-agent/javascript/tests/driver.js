// Speaks the agent protocol to a real agent process, as Hydra does.
'use strict';

const { spawn } = require('child_process');
const fs = require('fs');
const net = require('net');
const os = require('os');
const path = require('path');
const { KIND } = require('../frames.js');
const { flags } = require('../flags.json');

const AGENT = path.join(__dirname, '..', 'agent.js');
const NAMES = Object.fromEntries(Object.entries(KIND).map(([name, kind]) => [kind, name]));

/** Frames over a socket: `send`, and `next`, which resolves with `{ kind, text }`, or with null at the end. */
class Peer {
  constructor(socket) {
    this.socket = socket;
    this.frames = [];
    this.waiting = [];
    this.logs = [];
    let buffered = Buffer.alloc(0);
    socket.on('data', (bytes) => {
      buffered = Buffer.concat([buffered, bytes]);
      while (buffered.length >= 8 && buffered.length >= 8 + buffered.readUInt32LE(0)) {
        const end = 8 + buffered.readUInt32LE(0);
        this.#arrived({ kind: NAMES[buffered[4]], payload: Buffer.from(buffered.subarray(8, end)) });
        buffered = buffered.subarray(end);
      }
    });
    socket.on('error', () => {});
    socket.on('close', () => this.#arrived(null));
  }

  #arrived(frame) {
    if (frame?.kind === 'LOG') {
      this.logs.push({ fd: frame.payload[0], text: frame.payload.toString('utf8', 1), bytes: frame.payload.length - 1 });
      return;
    }
    const arrived = frame && { kind: frame.kind, text: frame.payload.toString('utf8') };
    const next = this.waiting.shift();
    if (next) {
      next(arrived);
    } else {
      this.frames.push(arrived);
    }
  }

  next() {
    return this.frames.length > 0 ? Promise.resolve(this.frames.shift()) : new Promise((resolve) => this.waiting.push(resolve));
  }

  send(kind, value) {
    const payload = Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
    const header = Buffer.alloc(8);
    header.writeUInt32LE(payload.length);
    header[4] = KIND[kind];
    this.socket.write(Buffer.concat([header, payload]));
  }

  async load(code, entryPoint = null, more = {}) {
    this.send('LOAD', { name: 'test', code, entryPoint, tmpDir: '/tmp/of-test', maxResult: 1 << 20, ...more });
    return this.next();
  }

  invoke(value) {
    this.send('INVOKE', typeof value === 'string' ? value : JSON.stringify(value));
    return this.next();
  }

  /** All that came on descriptor `fd`. */
  logged(fd) {
    return this.logs.filter((log) => log.fd === fd).map((log) => log.text).join('');
  }
}

function start(mode) {
  const child = spawn(process.execPath, [...flags[mode].map((flag) => flag.replace('{heap}', '512')), AGENT, `--${mode}`, '3'], {
    stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
    env: { PATH: '/usr/bin:/bin' },
  });
  const exited = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
  return { child, exited, peer: new Peer(child.stdio[3]) };
}

/** An agent in function mode, past its HELLO. */
async function startFunction() {
  const agent = start('function');
  agent.hello = JSON.parse((await agent.peer.next()).text);
  return { ...agent, stop: () => agent.child.kill('SIGKILL') };
}

/** A language host; `open(memory)` yields the channel of a new isolate, past its HELLO. */
async function startHost() {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'agent-'));
  const socket = path.join(directory, 'agents.sock');
  const expected = new Map();
  const server = net.createServer(async (connection) => {
    const peer = new Peer(connection);
    const hello = JSON.parse((await peer.next()).text);
    expected.get(hello.token)(Object.assign(peer, { hello }));
  });
  await new Promise((resolve) => server.listen(socket, resolve));
  const { child, exited, peer: control } = start('host');
  const hello = JSON.parse((await control.next()).text);
  let last = 0;
  const open = (memory = 256) => {
    const isolate = ++last;
    const opened = new Promise((resolve) => expected.set(`token-${isolate}`, resolve));
    control.send('OPEN', { isolate, socket, token: `token-${isolate}`, memory });
    return opened.then((peer) => Object.assign(peer, { isolate }));
  };
  const stop = () => {
    child.kill('SIGKILL');
    server.close();
    fs.rmSync(directory, { recursive: true, force: true });
  };
  return { child, exited, control, hello, open, stop };
}

module.exports = { startFunction, startHost };
