// A function channel: loads one function, invokes it, answers. The same in a process, a microVM and a worker.
'use strict';

const { Channel } = require('./channel.js');
const { describe, describeAsText } = require('./errors.js');
const { KIND, MAX_PAYLOAD_BYTES } = require('./frames.js');
const { captureOutput } = require('./output.js');

/** Serves the function channel `where` (see `Channel`); `token` in host mode. `onEnd` as `Channel` has it. */
function serveFunction(where, { token, onEnd }) {
  new Session(where, token, onEnd);
}

class Session {
  #channel;
  #flushOutput;
  #function = null;
  #hooks = { beforeCheckpoint: null, afterRestore: null };
  #restoring = null; // the function's hooks that are under way, as a promise
  #name = '';
  #tmpDir = '';
  #maxResult = MAX_PAYLOAD_BYTES;
  #loadError = null;
  #waiting = null; // the INVOKE that came while the function was being loaded
  // Invocations are numbered; `#current` is the one under way, or 0. What comes from an earlier one (it was answered
  // with an uncaught error, and its promise is settled later) is dropped.
  #started = 0;
  #current = 0;

  constructor(where, token, onEnd) {
    this.#channel = new Channel(where, {
      kinds: [KIND.LOAD, KIND.INVOKE, KIND.CHECKPOINT, KIND.RESTORED],
      onFrame: (kind, text) => this.#frame(kind, text),
      onEnd,
      onOpen: () => this.#hello(token),
    });
    this.#flushOutput = captureOutput((fd, text) => this.#channel.send(KIND.LOG, text, { prefix: fd, wait: true }));
    process.on('uncaughtException', (error) => this.#uncaught(error));
    process.on('unhandledRejection', (reason) => this.#uncaught(reason));
    process.on('exit', this.#flushOutput);
  }

  #frame(kind, text) {
    if (kind === KIND.INVOKE) {
      this.#invoke(text);
    } else if (kind === KIND.LOAD) {
      this.#load(JSON.parse(text));
    } else if (kind === KIND.CHECKPOINT) {
      this.#checkpoint();
    } else {
      this.#restored(JSON.parse(text));
    }
  }

  #hello(token) {
    const runtime = `Node.js ${process.versions.node}`;
    this.#channel.send(KIND.HELLO, JSON.stringify({ protocol: 1, language: 'javascript', runtime, token }));
  }

  async #load({ name, code, entryPoint, tmpDir, maxResult }) {
    this.#name = name;
    this.#tmpDir = tmpDir;
    this.#maxResult = Math.min(maxResult ?? MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES);
    try {
      const { loadFunction, unloadFunction } = require('./loader.js');
      if (this.#function !== null) {
        this.#function = null;
        unloadFunction();
      }
      const { call, ...hooks } = await loadFunction(code, entryPoint ?? null);
      this.#function = call;
      this.#hooks = hooks;
    } catch (error) {
      this.#loadError = error;
    }
    this.#flushOutput();
    if (this.#loadError === null) {
      this.#channel.send(KIND.LOADED, '');
    } else {
      this.#channel.send(KIND.LOAD_FAILED, describe(this.#loadError));
    }
    if (this.#waiting !== null) {
      const text = this.#waiting;
      this.#waiting = null;
      this.#invoke(text);
    }
  }

  /** Makes ready for a checkpoint. */
  async #checkpoint() {
    const fresh = require('./fresh.js');
    let failed = null;
    try {
      const obstacle = fresh.obstacle();
      if (obstacle !== null) {
        throw new Error(obstacle);
      }
      await callHooks([...process.listeners('hydra:checkpoint').reverse(), this.#hooks.beforeCheckpoint]);
    } catch (error) {
      failed = error;
    }
    this.#flushOutput();
    if (failed !== null) {
      this.#channel.send(KIND.RAISED, describe(failed));
      return;
    }
    // From a task of its own: what the hooks and the last invocation left on the stack is garbage then.
    setImmediate(() => {
      collectGarbage();
      this.#channel.send(KIND.READY, '');
    });
  }

  /** Makes what all clones of a snapshot share this one's own. An INVOKE that comes meanwhile waits. */
  #restored({ entropy }) {
    require('./fresh.js').reseed(entropy);
    const hooks = [this.#hooks.afterRestore, ...process.listeners('hydra:restore')];
    if (hooks.some((hook) => hook !== null)) {
      this.#restoring = callHooks(hooks).then(() => null, (error) => ({ error }));
    }
  }

  #invoke(text) {
    const call = this.#function;
    if (call === null && this.#loadError === null) {
      this.#waiting = text;
      return;
    }
    const id = ++this.#started;
    this.#current = id;
    if (this.#restoring !== null) {
      const restoring = this.#restoring;
      this.#restoring = null;
      restoring.then((failed) => (failed === null ? this.#call(id, text) : this.#raised(id, failed.error)));
      return;
    }
    this.#call(id, text);
  }

  #call(id, text) {
    const call = this.#function;
    if (call === null) {
      this.#raised(id, this.#loadError);
      return;
    }
    let value;
    try {
      value = call(parseArguments(text, this.#tmpDir));
      if (isThenable(value)) {
        // A promise is asked directly, which saves turns of the microtask queue.
        const promise = value instanceof Promise ? value : Promise.resolve(value);
        promise.then((result) => this.#returned(id, result), (error) => this.#raised(id, error));
        return;
      }
    } catch (error) {
      this.#raised(id, error);
      return;
    }
    this.#returned(id, value);
  }

  #returned(id, value) {
    if (id !== this.#current) {
      return;
    }
    let text;
    if (typeof value === 'string') {
      text = value;
    } else {
      try {
        text = value === undefined ? 'null' : JSON.stringify(value);
      } catch (error) {
        this.#refused(id, 'InvalidResult', `the result cannot be written as JSON: ${error?.message}`);
        return;
      }
      if (text === undefined) {
        this.#refused(id, 'InvalidResult', `the result cannot be written as JSON: it is a ${typeof value}`);
        return;
      }
    }
    // Counting bytes is needed only where the text could be too long.
    if (text.length * 3 > this.#maxResult) {
      const bytes = Buffer.byteLength(text);
      if (bytes > this.#maxResult) {
        this.#refused(id, 'ResultTooLarge', `the result has ${bytes} bytes, and at most ${this.#maxResult} are allowed`);
        return;
      }
    }
    this.#answer(KIND.RESULT, text);
  }

  #raised(id, error) {
    if (id === this.#current) {
      this.#answer(KIND.RAISED, describe(error));
    }
  }

  #refused(id, type, message) {
    if (id === this.#current) {
      this.#answer(KIND.RAISED, JSON.stringify({ message, type, stack: '' }));
    }
  }

  #answer(kind, text) {
    this.#current = 0;
    this.#flushOutput();
    this.#channel.send(kind, text);
  }

  /** An error that no code of the function caught: it is that of the invocation under way, if there is one. */
  #uncaught(error) {
    if (this.#current !== 0) {
      this.#raised(this.#current, error);
    } else {
      process.stderr.write(`${this.#name}: uncaught outside of an invocation: ${describeAsText(error)}\n`);
    }
  }
}

/** A full collection. Functions do not get `gc`: only contexts that are made while the flag is set have it. */
function collectGarbage() {
  const v8 = require('v8');
  v8.setFlagsFromString('--expose-gc');
  const collect = require('vm').runInNewContext('gc');
  v8.setFlagsFromString('--no-expose-gc');
  collect();
}

/** Calls those that are there, each when the one before is done. */
async function callHooks(hooks) {
  for (const hook of hooks) {
    if (hook !== null) {
      await hook.call(process);
    }
  }
}

function parseArguments(text, tmpDir) {
  if (text === '') {
    return { tmpDir };
  }
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return text;
  }
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
    value.tmpDir = tmpDir;
  }
  return value;
}

function isThenable(value) {
  return value !== null && (typeof value === 'object' || typeof value === 'function') && typeof value.then === 'function';
}

module.exports = { serveFunction };
