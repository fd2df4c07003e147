// What a program that goes on from a snapshot must not share with the snapshot's other clones: random numbers. Preloaded (`--require`) in
// microVMs, in each thread: what a function takes hold of while it is loaded is then what can be seeded later.
'use strict';

const path = require('path');

const UUIDS_AT_ONCE = 128; // as many Node makes ahead
const RESTORES = 0; // in the words that all threads share: the number of restores, then the entropy of the last one
const ENTROPY = 1;
const ENTROPY_WORDS = 8;

const addon = loadAddon();
const shared = new Int32Array(addon.shared ?? new ArrayBuffer(4 * (ENTROPY + ENTROPY_WORDS)));

/** The addon that `build.sh` puts beside this file, or nothing. */
function loadAddon() {
  const module = { exports: {} };
  try {
    process.dlopen(module, path.join(__dirname, 'reseed.node'));
  } catch {
    // Not built, or another Node than it is for: `obstacle` says so.
  }
  return module.exports;
}

/** What keeps clones of this program from having random numbers of their own, or null. */
function obstacle() {
  return addon.seed === undefined ? 'the agent has no access to OpenSSL\'s random numbers (reseed.node is missing or does not fit this Node)' : null;
}

/**
 * Replaces this thread's `Math.random`: V8's own cannot be seeded. After a restore it is xoshiro128++ (Blackman and Vigna), with the 53 bits that
 * a number between 0 and 1 can have.
 */
function replaceMathRandom(thread) {
  const original = Math.random;
  let seen = 0;
  let a, b, c, d;
  const seed = () => {
    seen = shared[RESTORES];
    // Both halves of the entropy; threads differ by their number.
    const word = (i) => shared[ENTROPY + i] ^ Math.imul(shared[ENTROPY + 4 + i], 0x9e3779b1) ^ Math.imul(thread, 0x85ebca6b + i);
    [a, b, c, d] = [word(0), word(1), word(2), word(3) | 1];
    for (let i = 0; i < 16; i += 1) {
      next();
    }
  };
  const next = () => {
    const sum = (a + d) | 0;
    const result = (((sum << 7) | (sum >>> 25)) + a) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = (d << 11) | (d >>> 21);
    return result;
  };
  Math.random = function random() {
    if (shared[RESTORES] !== seen) {
      seed();
    }
    return seen === 0 ? original() : ((next() >>> 5) * 0x4000000 + (next() >>> 6)) / 0x20000000000000;
  };
}

/** Uses up what Node's `crypto` has made ahead in this thread. */
function dropCaches(crypto) {
  for (let i = 0; i < UUIDS_AT_ONCE; i += 1) {
    crypto.randomUUID();
  }
  // `randomInt` takes from a buffer that is seen nowhere but by this method, which it calls.
  const { prototype } = Buffer;
  const { readUIntBE } = prototype;
  let cache = null;
  prototype.readUIntBE = function (...place) {
    cache ??= this;
    return readUIntBE.apply(this, place);
  };
  try {
    crypto.randomInt(2);
  } finally {
    prototype.readUIntBE = readUIntBE;
  }
  if (cache !== null) {
    crypto.randomFillSync(cache);
  }
}

/** Makes this thread's `crypto` drop what it has made ahead before the first use after a restore. For threads that are not told of one. */
function watchCaches() {
  const crypto = require('crypto');
  const { randomInt, randomUUID } = crypto;
  let seen = shared[RESTORES];
  const wrap = (owner, name) => {
    const original = owner[name];
    owner[name] = function (...args) {
      if (shared[RESTORES] !== seen) {
        seen = shared[RESTORES];
        dropCaches({ randomInt, randomUUID, randomFillSync: crypto.randomFillSync });
      }
      return original.apply(this, args);
    };
  };
  wrap(crypto, 'randomInt');
  wrap(crypto, 'randomUUID');
  wrap(Object.getPrototypeOf(crypto.webcrypto), 'randomUUID');
}

/** Makes this program one of its own: seeds everything with `entropy`, 64 hexadecimal digits that no other clone has. In the main thread. */
function reseed(entropy) {
  const bytes = Uint8Array.from({ length: 4 * ENTROPY_WORDS }, (_, i) => Number.parseInt(entropy.slice(2 * i, 2 * i + 2), 16));
  shared.set(new Int32Array(bytes.buffer), ENTROPY);
  Atomics.add(shared, RESTORES, 1);
  addon.seed?.(bytes.buffer);
  // Without it nothing was made ahead.
  if (process.moduleLoadList.includes('NativeModule internal/crypto/random')) {
    dropCaches(require('crypto'));
  }
  dropConnections();
}

/** Lets go of the connections that are kept for later requests: after a restore they are cut. */
function dropConnections() {
  for (const name of ['http', 'https'].filter((name) => process.moduleLoadList.includes(`NativeModule ${name}`))) {
    require(name).globalAgent.destroy();
  }
}

// The main thread comes first, and is the one that Hydra tells of a restore.
const thread = addon.thread ?? 0;
replaceMathRandom(thread);
if (thread !== 0) {
  watchCaches();
}

module.exports = { obstacle, reseed };
