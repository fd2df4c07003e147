// Frames: their kinds, and a reader that cuts a stream of bytes into them.
'use strict';

const KIND = {
  HELLO: 0x01,
  LOADED: 0x02,
  LOAD_FAILED: 0x03,
  RESULT: 0x04,
  RAISED: 0x05,
  LOG: 0x06,
  READY: 0x07,
  CLOSED: 0x11,
  LOAD: 0x81,
  INVOKE: 0x82,
  RESTORED: 0x83,
  CHECKPOINT: 0x84,
  OPEN: 0x91,
  CLOSE: 0x92,
};
const HEADER_BYTES = 8;
const MAX_PAYLOAD_BYTES = 64 * 1024 * 1024;

/** A peer sent what is not a frame. */
class ProtocolError extends Error {}

/**
 * Calls `onFrame(kind, payload)` for every complete frame, payload as text. Frames that arrive whole, which is the
 * common case, are decoded straight from the read buffer.
 */
class FrameReader {
  #onFrame;
  #kinds;
  #header = Buffer.alloc(HEADER_BYTES);
  #headerBytes = 0; // of an unfinished header
  #kind = 0;
  #payload = null; // of an unfinished frame, once its header is complete
  #payloadBytes = 0;

  /** `kinds`: those that this side accepts. */
  constructor(kinds, onFrame) {
    this.#kinds = kinds;
    this.#onFrame = onFrame;
  }

  /** Takes the first `size` bytes of `bytes`; nothing of `bytes` is kept. Throws a `ProtocolError`. */
  push(bytes, size) {
    let at = 0;
    while (at < size) {
      if (this.#payload === null) {
        if (this.#headerBytes === 0 && size - at >= HEADER_BYTES) {
          const length = this.#check(bytes, at);
          const end = at + HEADER_BYTES + length;
          if (end <= size) {
            const kind = bytes[at + 4];
            const text = bytes.toString('utf8', at + HEADER_BYTES, end);
            at = end;
            this.#onFrame(kind, text);
            continue;
          }
        }
        at = this.#continueHeader(bytes, at, size);
      } else {
        at = this.#continuePayload(bytes, at, size);
      }
      if (this.#payload !== null && this.#payloadBytes === this.#payload.length) {
        const text = this.#payload.toString('utf8');
        this.#payload = null;
        this.#onFrame(this.#kind, text);
      }
    }
  }

  #continueHeader(bytes, at, size) {
    const copied = bytes.copy(this.#header, this.#headerBytes, at, Math.min(size, at + HEADER_BYTES - this.#headerBytes));
    this.#headerBytes += copied;
    if (this.#headerBytes === HEADER_BYTES) {
      const length = this.#check(this.#header, 0);
      this.#kind = this.#header[4];
      this.#headerBytes = 0;
      this.#payload = Buffer.allocUnsafeSlow(length);
      this.#payloadBytes = 0;
    }
    return at + copied;
  }

  #continuePayload(bytes, at, size) {
    const copied = bytes.copy(this.#payload, this.#payloadBytes, at, size);
    this.#payloadBytes += copied;
    return at + copied;
  }

  #check(bytes, at) {
    const length = (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
    if (length > MAX_PAYLOAD_BYTES || (bytes[at + 5] | bytes[at + 6] | bytes[at + 7]) !== 0 || !this.#kinds.includes(bytes[at + 4])) {
      throw new ProtocolError(`not a frame: length ${length}, kind ${bytes[at + 4]}`);
    }
    return length;
  }
}

/** Writes a header at the start of `bytes`. */
function writeHeader(bytes, kind, length) {
  bytes[0] = length;
  bytes[1] = length >>> 8;
  bytes[2] = length >>> 16;
  bytes[3] = length >>> 24;
  bytes[4] = kind;
  bytes[5] = bytes[6] = bytes[7] = 0;
}

module.exports = { KIND, HEADER_BYTES, MAX_PAYLOAD_BYTES, ProtocolError, FrameReader, writeHeader };
