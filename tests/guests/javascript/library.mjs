// The standard library where it leans on the machine: crypto, zlib, WebAssembly and its traps, Intl, timers, contexts, big numbers.
import crypto from 'node:crypto';
import zlib from 'node:zlib';
import util from 'node:util';
import vm from 'node:vm';
import v8 from 'node:v8';
import { AsyncLocalStorage } from 'node:async_hooks';
import { performance } from 'node:perf_hooks';
import { Transform, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

const text = 'The quick brown fox jumps over the lazy dog. '.repeat(2000);
for (const name of ['sha1', 'sha256', 'sha512', 'md5', 'blake2b512', 'sha3-256']) {
  console.log(name, crypto.createHash(name).update(text).digest('hex').slice(0, 32));
}
console.log(crypto.createHmac('sha256', 'key').update(text).digest('base64'));
console.log(crypto.scryptSync('password', 'salt', 32).toString('hex'), crypto.pbkdf2Sync('a', 'b', 1000, 20, 'sha512').toString('hex'));
const cipher = crypto.createCipheriv('aes-256-gcm', Buffer.alloc(32, 1), Buffer.alloc(12, 2));
console.log(crypto.createHash('sha256').update(Buffer.concat([cipher.update(text), cipher.final(), cipher.getAuthTag()])).digest('hex'));
const { publicKey, privateKey } = await util.promisify(crypto.generateKeyPair)('rsa', { modulusLength: 1024 });
console.log(crypto.verify('sha256', Buffer.from(text), publicKey, crypto.sign('sha256', Buffer.from(text), privateKey)));
console.log(new Set([...Array(100)].map(() => crypto.randomUUID())).size, crypto.randomBytes(16).length);

for (const [pack, unpack] of [['gzip', 'gunzip'], ['deflate', 'inflate'], ['brotliCompress', 'brotliDecompress']]) {
  const packed = await util.promisify(zlib[pack])(text);
  console.log(pack, packed.length, (await util.promisify(zlib[unpack])(packed)).toString() === text);
}

// (module (memory 1) (func (export "load") (param i32) (result i32) local.get 0 i32.load)
//         (func (export "div") (param i32 i32) (result i32) local.get 0 local.get 1 i32.div_s)
//         (func (export "fib") (param i32) (result i32) …))
const wasm = Uint8Array.from([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 12, 2, 96, 1, 127, 1, 127, 96, 2, 127, 127, 1, 127, 3, 4, 3, 0, 1, 0, 5, 3, 1, 0, 1,
  7, 20, 3, 4, 108, 111, 97, 100, 0, 0, 3, 100, 105, 118, 0, 1, 3, 102, 105, 98, 0, 2, 10, 46, 3, 7, 0, 32, 0, 40, 2, 0, 11,
  7, 0, 32, 0, 32, 1, 109, 11, 28, 0, 32, 0, 65, 2, 72, 4, 127, 32, 0, 5, 32, 0, 65, 1, 107, 16, 2, 32, 0, 65, 2, 107, 16, 2, 106, 11, 11,
]);
const { instance } = await WebAssembly.instantiate(wasm);
const { load, div, fib } = instance.exports;
console.log(load(0), div(7, 2), fib(24));
let traps = 0;
for (let i = 0; i < 200; i++) {
  try { load(65_533 + i * 1_000_003); } catch (error) { traps += error instanceof WebAssembly.RuntimeError; }
  try { div(i, 0); } catch (error) { traps += error instanceof WebAssembly.RuntimeError; }
}
console.log(traps);

console.log(new Intl.NumberFormat('de-DE', { style: 'currency', currency: 'EUR' }).format(1234567.891));
console.log(new Intl.DateTimeFormat('ja-JP', { dateStyle: 'full', timeZone: 'Asia/Tokyo' }).format(0));
console.log(['z', 'ä', 'a'].sort(new Intl.Collator('sv').compare).join(''), [...new Intl.Segmenter('en', { granularity: 'word' }).segment('one two')].length);

const storage = new AsyncLocalStorage();
console.log((await Promise.all([...Array(20).keys()].map((i) => storage.run(i, async () => {
  await new Promise((resolve) => setTimeout(resolve, (i * 7) % 11));
  await null;
  return storage.getStore();
})))).join(' '));

const order = [];
await new Promise((resolve) => {
  setTimeout(() => { order.push('timeout'); resolve(); }, 20);
  setImmediate(() => order.push('immediate'));
  process.nextTick(() => order.push('tick'));
  queueMicrotask(() => order.push('microtask'));
});
console.log(order.join(' '));
const begun = performance.now();
await new Promise((resolve) => setTimeout(resolve, 30));
console.log(performance.now() - begun >= 29, process.hrtime.bigint() > 0n);

const upper = new Transform({ transform(chunk, _, done) { done(null, chunk.toString().toUpperCase()); } });
const words = [];
await pipeline(Readable.from(['a', 'b', 'c']), upper, async (source) => { for await (const word of source) words.push(`${word}`); });
console.log(words.join(''));

console.log(2n ** 521n % 1_000_000_007n, [3, 1, 2].toSorted().join(), structuredClone(new Map([[1, { a: [1, 2n] }]])).get(1).a[1]);
console.log(vm.runInNewContext('x.map((y) => y * 2).join()', { x: [1, 2, 3] }));
try { vm.runInNewContext('for (;;);', {}, { timeout: 30 }); } catch (error) { console.log(error.code); }
try { (function down() { down(); })(); } catch (error) { console.log(error.name); }
const blobs = [];
for (let i = 0; i < 300; i++) blobs[i % 20] = Buffer.alloc(200_000, i);
console.log(blobs.at(-1)[0], v8.getHeapStatistics().heap_size_limit > 0);
process.on('SIGUSR2', () => console.log('signal'));
process.kill(process.pid, 'SIGUSR2');
await new Promise((resolve) => setTimeout(resolve, 20));
process.exitCode = 6;
