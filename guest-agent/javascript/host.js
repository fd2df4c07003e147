// The language host: opens and closes isolates, each a worker thread with a function channel of its own.
'use strict';

const path = require('path');
const v8 = require('v8');
const { Worker } = require('worker_threads');
const { Channel, EXIT } = require('./channel.js');
const { KIND } = require('./frames.js');

// What the new generation of an isolate's heap may grow to: V8's own default of 48 MiB is meant for one heap a process.
const MAX_YOUNG_MIB = 24;

// Node 18's V8 has another rule, and no such flag.
if (Number(process.versions.v8.split('.')[0]) >= 11) {
  // What a collection of garbage finds unused since the one before it need not stay compiled: 0.13 MB of what a worker has run to start.
  v8.setFlagsFromString('--bytecode-old-age=1');
}

/** Serves the control channel on descriptor `fd`. */
function serveHost(fd) {
  const isolates = new Map();
  const channel = new Channel({ fd }, {
    kinds: [KIND.OPEN, KIND.CLOSE],
    onOpen: () => {
      const runtime = `Node.js ${process.versions.node}`;
      channel.send(KIND.HELLO, JSON.stringify({ protocol: 1, language: 'javascript', runtime }));
    },
    onFrame: (kind, text) => {
      const { isolate, ...options } = JSON.parse(text);
      if (kind === KIND.OPEN) {
        open(isolate, options);
      } else {
        isolates.get(isolate)?.close();
      }
    },
    onEnd: (error) => process.exit(error === null ? 0 : EXIT.protocol),
  });

  function open(id, options) {
    const onClosed = (reason, outOfMemory) => {
      isolates.delete(id);
      channel.send(KIND.CLOSED, JSON.stringify({ isolate: id, reason, outOfMemory }));
    };
    if (isolates.has(id)) {
      // Not an isolate of its own: `CLOSED` would be taken for the end of the one that is open.
      process.stderr.write(`isolate ${id} is open already\n`);
      return;
    }
    try {
      isolates.set(id, new Isolate(options, onClosed));
    } catch (error) {
      onClosed(`the worker could not be made: ${error.message}`, false);
    }
  }
}

const starting = new Set(); // a mark for each worker that starts

/**
 * A worker, while whose start V8 is told to spare memory. Its cache of numbers as strings grows to 256 KiB, for good, when two numbers first meet in it, and Node's start-up
 * brings that about by parsing `process.config`; with this flag it stays small. Meanwhile, some 30 ms, V8 rather collects garbage than lets the heaps of this process grow.
 */
function startWorker(file, options) {
  const spareMemory = () => v8.setFlagsFromString(starting.size > 0 ? '--optimize-for-size' : '--no-optimize-for-size');
  const mark = {};
  const started = () => {
    if (starting.delete(mark)) {
      spareMemory();
    }
  };
  starting.add(mark);
  spareMemory();
  try {
    const worker = new Worker(file, options);
    worker.on('online', started);
    worker.on('exit', started); // also without having been online
    return worker;
  } catch (error) {
    started();
    throw error;
  }
}

class Isolate {
  #worker;
  #end = null; // why it was ended, if it did not end by itself
  #error = null;

  constructor({ socket, token, memory }, onClosed) {
    this.#worker = startWorker(path.join(__dirname, 'isolate.js'), {
      argv: [],
      execArgv: [],
      workerData: { socket, token },
      // Both are replaced in the worker: nothing is to be passed through the host's own streams.
      stdout: true,
      stderr: true,
      trackUnmanagedFds: false,
      resourceLimits: {
        maxOldGenerationSizeMb: memory,
        maxYoungGenerationSizeMb: memory === undefined ? MAX_YOUNG_MIB : Math.max(1, Math.min(MAX_YOUNG_MIB, memory / 4)),
      },
    });
    this.#worker.on('message', (message) => {
      this.#end ??= String(message?.end);
    });
    this.#worker.on('error', (error) => {
      this.#error = error;
    });
    this.#worker.on('exit', (code) => onClosed(...this.#reason(code)));
  }

  /** Ends the isolate, whatever it is doing. */
  close() {
    this.#end ??= 'closed';
    this.#worker.terminate();
  }

  #reason(code) {
    if (this.#error?.code === 'ERR_WORKER_OUT_OF_MEMORY') {
      return ['the isolate ran out of memory', true];
    }
    if (this.#end !== null) {
      return [this.#end, false];
    }
    if (this.#error !== null) {
      return [`${this.#error?.message ?? this.#error}`, false];
    }
    return [`the function ended its isolate with status ${code}`, false];
  }
}

module.exports = { serveHost };
