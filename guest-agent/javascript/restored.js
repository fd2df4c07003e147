// What a program that goes on from a snapshot must not share with the snapshot's other clones: random numbers.
'use strict';

/**
 * Seeds `Math.random` with `entropy`, 64 hexadecimal digits that no other clone has. V8's own generator cannot be seeded from here, so
 * another takes its place: xoshiro128++ (Blackman and Vigna), with the 53 bits that a number between 0 and 1 can have.
 */
function reseed(entropy) {
  const words = new Uint32Array(4);
  for (let i = 0; i < 4; i += 1) {
    words[i] = Number.parseInt(entropy.slice(8 * i, 8 * i + 8), 16);
  }
  let [a, b, c, d] = words;
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
    return ((next() >>> 5) * 0x4000000 + (next() >>> 6)) / 0x20000000000000;
  };
}

module.exports = { reseed };
