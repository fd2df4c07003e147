// The JavaScript programs of `hydra bench exec`: programs.js NAME FOLDER TIMES runs one so many times, and prints the last one's seconds and result.

const programs = {
  json() {
    const record = { name: "grüße", tags: Array(15).fill("tag"), values: Array.from({ length: 40 }, (_, i) => i * 0.37) };
    let size = 0;
    for (let i = 0; i < 40000; i++) {
      record.number = i;
      size += JSON.stringify(JSON.parse(JSON.stringify(record))).length;
    }
    return size;
  },

  sieve() {
    const limit = 3_000_000;
    let count = 0;
    for (let round = 0; round < 8; round++) {
      const composite = new Uint8Array(limit);
      for (let i = 2; i < limit; i++) {
        if (composite[i]) continue;
        count++;
        for (let j = i * 2; j < limit; j += i) composite[j] = 1;
      }
    }
    return count;
  },

  objects() {
    let total = 0;
    for (let i = 0; i < 300; i++) {
      const map = new Map();
      for (let j = 0; j < 5000; j++) map.set(`k${j}`, { value: j, next: [j, j + 1] });
      for (const { value, next } of map.values()) total += value + next[1];
    }
    return total;
  },

  regex() {
    const text = 'The quick brown fox jumps over 13 lazy dogs, and 7 cats watch: fox@example.org. '.repeat(200);
    let found = 0;
    for (let i = 0; i < 400; i++) {
      found += text.match(/\b\w+@\w+\.org\b/g).length + text.match(/(\d+) (\w+)/g).length + text.replace(/[aeiou]+/g, '').length;
    }
    return found;
  },

  sha256() {
    const crypto = require('node:crypto');
    const block = Buffer.alloc(1 << 20, 7);
    const hash = crypto.createHash('sha256');
    for (let i = 0; i < 100; i++) hash.update(block);
    return hash.digest('hex');
  },

  memory() {
    let total = 0;
    for (let i = 0; i < 40; i++) total += Buffer.alloc(8 << 20, i)[i];
    return total;
  },
};

const [name, , times] = process.argv.slice(2);
let seconds, result;
for (let i = 0; i < Number(times); i++) {
  const start = process.hrtime.bigint();
  result = programs[name]();
  seconds = Number(process.hrtime.bigint() - start) / 1e9;
}
console.log(JSON.stringify({ seconds, result: String(result) }));
