// Loops that every tier of the compiler gets to see, deoptimisation, typed arrays, strings, maps, sorting, regular expressions, JSON, generators.
const out = [];
function nbody(steps) {
  const bodies = [[0, 0, 0, 0, 0, 0, 39.47], [4.84, -1.16, -0.1, 0.6, 2.81, -0.02, 0.037], [8.34, 4.12, -0.4, -1.01, 1.82, 0.008, 0.011]];
  for (let s = 0; s < steps; s++) {
    for (const a of bodies) for (const b of bodies) if (a !== b) {
      const d = [0, 1, 2].map((i) => a[i] - b[i]);
      const m = 0.001 * b[6] / Math.pow(d[0] ** 2 + d[1] ** 2 + d[2] ** 2, 1.5);
      for (let i = 0; i < 3; i++) a[i + 3] -= d[i] * m;
    }
    for (const a of bodies) for (let i = 0; i < 3; i++) a[i] += 0.001 * a[i + 3];
  }
  return bodies.map((b) => b.slice(0, 3).map((x) => x.toFixed(9)).join()).join(' ');
}
out.push(nbody(20_000));
const sieve = new Uint8Array(2_000_000);
let primes = 0;
for (let i = 2; i < sieve.length; i++) {
  if (sieve[i]) continue;
  primes++;
  for (let j = i * 2; j < sieve.length; j += i) sieve[j] = 1;
}
out.push(primes);
let seed = 42;
const random = () => (seed = (seed * 1103515245 + 12345) & 0x7fffffff);
const numbers = Float64Array.from({ length: 300_000 }, random).sort();
out.push(numbers[0], numbers[150_000], numbers.at(-1));
const words = Array.from({ length: 100_000 }, () => random().toString(36).slice(0, 3));
const counts = new Map();
for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
out.push(counts.size, [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))[0].join());
const value = (x) => x.f + 1;
let sum = 0;
for (let i = 0; i < 400_000; i++) sum += value(i % 1000 === 999 ? { g: 1, f: 0.5 } : i % 100 === 99 ? { f: 'a' }.f.length : { f: i & 7 }) || 0;
out.push(sum);
const tree = (depth) => (depth === 0 ? { v: 1 } : { l: tree(depth - 1), r: tree(depth - 1) });
const check = (node) => (node.v ? 1 : check(node.l) + check(node.r));
for (let i = 0; i < 6; i++) out.push(check(tree(15)));
const record = { list: words.slice(0, 20_000), nested: { a: [1.5, null, true, 'é"\\\n'] } };
out.push(JSON.stringify(JSON.parse(JSON.stringify(record))).length);
out.push(words.join(' ').replace(/([a-f])([0-9])/g, '$2$1').match(/\b[0-9]\w+/g).length);
function* fibonacci() { for (let [a, b] = [0n, 1n]; ; [a, b] = [b, a + b]) yield a; }
let n = 0;
for (const f of fibonacci()) if (++n === 2000) { out.push(String(f).slice(0, 30)); break; }
let caught = 0;
for (let i = 0; i < 20_000; i++) { try { if (i % 3 === 0) null.x; } catch { caught++; } }
out.push(caught);
console.log(out.join('\n'));
