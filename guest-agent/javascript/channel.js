// A channel: frames over a Unix stream socket.
'use strict';

const fs = require('fs');
const net = require('net');
const { FrameReader, HEADER_BYTES, ProtocolError, writeHeader } = require('./frames.js');

const EXIT = { protocol: 70 };
const READ_BYTES = 64 * 1024;
const REUSED_BYTES = 16 * 1024;
const MAX_UTF8_PER_UNIT = 3; // a UTF-16 code unit takes at most three bytes in UTF-8

class Channel {
  #socket;
  #reader;
  #onEnd;
  #reused = Buffer.alloc(REUSED_BYTES);

  /**
   * `where` is `{ fd }`, an inherited descriptor, or `{ path }`, a socket to connect to. `kinds` are the frames that
   * may come. `onFrame(kind, text)` gets them; `onOpen` is called when frames can be sent; `onEnd(error)` is called
   * once, with null when the other side is done, else with what went wrong: no connection, or bytes that are no frame.
   */
  constructor(where, { kinds, onFrame, onEnd, onOpen }) {
    this.#reader = new FrameReader(kinds, onFrame);
    this.#onEnd = onEnd;
    // `onread` gives one callback a read with one buffer for all of them: no stream machinery between the system
    // call and the function.
    const onread = { buffer: Buffer.allocUnsafeSlow(READ_BYTES), callback: (size, bytes) => this.#read(size, bytes) };
    if (where.path === undefined) {
      this.#socket = new net.Socket({ fd: where.fd, readable: true, writable: true, onread });
      // The caller has the channel in hand before the first frame.
      queueMicrotask(onOpen);
    } else {
      this.#socket = net.connect({ path: where.path, onread }, onOpen);
    }
    this.#socket.on('error', (error) => {
      this.#end(error.syscall === 'connect' ? error : null); // a reset connection has ended, too
    });
    this.#socket.on('end', () => this.#end(null));
    this.#socket.on('close', () => this.#end(null));
  }

  /**
   * Sends a frame whose payload is `text` in UTF-8, after the byte `prefix` if one is given. It is written before
   * this returns if the socket takes it; what it does not take follows from the event loop, or, for a caller that
   * sends without end and so must `wait`, when the other side has read.
   */
  send(kind, text, { prefix, wait = false } = Channel.#plain) {
    const start = prefix === undefined ? HEADER_BYTES : HEADER_BYTES + 1;
    let bytes = this.#reused;
    let size;
    if (start + text.length * MAX_UTF8_PER_UNIT <= REUSED_BYTES) {
      size = start + bytes.write(text, start);
    } else {
      size = start + Buffer.byteLength(text);
      bytes = Buffer.allocUnsafeSlow(size);
      bytes.write(text, start);
    }
    if (prefix !== undefined) {
      bytes[HEADER_BYTES] = prefix;
    }
    writeHeader(bytes, kind, size - HEADER_BYTES);
    this.#write(bytes, size, wait);
  }

  static #plain = {};

  #write(bytes, size, wait) {
    let written = 0;
    // One `write` from here costs a third of a pass through the stream machinery. `_handle` is null once closed.
    while (written < size && this.#socket.writableLength === 0) {
      const handle = this.#socket._handle;
      if (handle === null) {
        return;
      }
      try {
        written += fs.writeSync(handle.fd, bytes, written, size - written);
      } catch (error) {
        if (error.code === 'EAGAIN') {
          if (!wait) {
            break;
          }
          Atomics.wait(Channel.#never, 0, 0, 1);
        } else if (error.code !== 'EINTR') {
          return; // the other side is gone: the end is reported by the read
        }
      }
    }
    if (written < size && !this.#socket.destroyed) {
      this.#socket.write(Buffer.from(bytes.subarray(written, size)));
    }
  }

  static #never = new Int32Array(new SharedArrayBuffer(4));

  #read(size, bytes) {
    try {
      this.#reader.push(bytes, size);
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        throw error;
      }
      this.#end(error);
      return false;
    }
    return true;
  }

  #end(error) {
    const onEnd = this.#onEnd;
    this.#onEnd = null;
    if (onEnd !== null) {
      this.#socket.destroy();
      onEnd(error);
    }
  }
}

module.exports = { Channel, EXIT };
