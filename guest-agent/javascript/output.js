// What a function prints: process.stdout and process.stderr, and with them console.*, become LOG frames.
'use strict';

const { Writable } = require('stream');
const { StringDecoder } = require('string_decoder');

const MAX_UNITS = 16 * 1024; // of UTF-16 in one frame: at most 48 KiB of UTF-8, and 64 are allowed

class Output extends Writable {
  #emit;
  #line = ''; // unfinished
  #decoder = null;

  /** `emit(text)` sends a piece of at most 64 KiB. */
  constructor(fd, emit) {
    super({ decodeStrings: false });
    this.fd = fd;
    this.#emit = emit;
  }

  _write(chunk, encoding, done) {
    let text = chunk;
    if (typeof chunk !== 'string' || (encoding !== 'utf8' && encoding !== 'utf-8')) {
      // A character may be cut in two by the ends of the chunks.
      this.#decoder ??= new StringDecoder('utf8');
      text = this.#decoder.write(typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk);
    }
    const line = this.#line + text;
    const complete = line.length > MAX_UNITS ? line.length : line.lastIndexOf('\n') + 1;
    this.#line = line.slice(complete);
    this.#send(line.slice(0, complete));
    done();
  }

  /** Sends an unfinished line too. */
  flushLine() {
    const line = this.#line;
    this.#line = '';
    this.#send(line);
  }

  /** Like Node's own, this stream cannot be closed. */
  destroy() {
    return this;
  }

  end(chunk, encoding, done) {
    if (chunk !== undefined && chunk !== null && typeof chunk !== 'function') {
      this.write(chunk, typeof encoding === 'string' ? encoding : undefined);
    }
    const callback = [chunk, encoding, done].find((value) => typeof value === 'function');
    if (callback !== undefined) {
      process.nextTick(callback);
    }
    return this;
  }

  #send(text) {
    let start = 0;
    while (start < text.length) {
      let end = Math.min(start + MAX_UNITS, text.length);
      if (end < text.length && (text.charCodeAt(end - 1) & 0xfc00) === 0xd800) {
        end -= 1; // not between the halves of a surrogate pair
      }
      this.#emit(text.slice(start, end));
      start = end;
    }
  }
}

/** Puts the streams in place, to be made when they are first used. `emit(fd, text)` sends; returns `flush()`. */
function captureOutput(emit) {
  const made = [];
  for (const [fd, name] of [[1, 'stdout'], [2, 'stderr']]) {
    let stream = null;
    const get = () => {
      if (stream === null) {
        stream = new Output(fd, (text) => emit(fd, text));
        made.push(stream);
      }
      return stream;
    };
    Object.defineProperty(process, name, { configurable: true, enumerable: true, get });
  }
  return () => {
    for (let i = 0; i < made.length; i++) {
      made[i].flushLine();
    }
  };
}

module.exports = { captureOutput };
