// Packages that functions use: packages.mjs FOLDER, where FOLDER/node_modules has those of package.json. sharp brings a native library with threads of
// its own.
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';

const require = createRequire(`${process.argv[2]}/`);
const _ = require('lodash');
const Mustache = require('mustache');
const sharp = require('sharp');
const uuid = require('uuid');

const words = 'the quick brown fox jumps over the lazy dog and the fox runs'.split(' ');
const rows = _(words).countBy().toPairs().orderBy([1, 0], ['desc', 'asc']).map(([word, count]) => ({ word, count })).value();
console.log(rows, _.chunk(_.range(7), 3), _.merge({ a: { b: 1 } }, { a: { c: [1, 2] } }), _.kebabCase('Some Camel caseText'));
let calls = 0;
const debounced = _.debounce(() => { calls += 1; }, 10);
for (let i = 0; i < 5; i += 1) debounced();
await new Promise((resolve) => setTimeout(resolve, 200));
console.log('debounced', calls, _.memoize((n) => n * 2)(21));

console.log(Mustache.render('{{#rows}}<td title="{{word}}">{{count}}</td>{{/rows}}{{^none}}<!{{{raw}}}>{{/none}}', { rows, raw: '<b>&' }));

const random = Array.from({ length: 1000 }, () => uuid.v4());
console.log(new Set(random).size, random.every((id) => uuid.validate(id) && uuid.version(id) === 4));
console.log(uuid.v5('hydra', uuid.v5.URL), uuid.stringify(uuid.parse('6ba7b810-9dad-11d1-80b4-00c04fd430c8')));

// Exact results only: how an encoder rounds depends on the CPU, which is the same here, not on the system.
const [width, height] = [640, 480];
const pixels = Buffer.alloc(width * height * 3);
for (let i = 0; i < pixels.length; i += 1) pixels[i] = (i * 7 + (i >> 9)) & 0xff;
const raw = { raw: { width, height, channels: 3 } };
const digest = (bytes) => createHash('sha256').update(bytes).digest('hex').slice(0, 16);
const outputs = await Promise.all([
  sharp(pixels, raw).resize(100, 80).png().toBuffer(),
  sharp(pixels, raw).rotate(90).blur(2).jpeg({ quality: 80 }).toBuffer(),
  sharp(pixels, raw).extract({ left: 10, top: 10, width: 200, height: 100 }).greyscale().webp({ lossless: true }).toBuffer(),
  sharp(pixels, raw).flip().negate().raw().toBuffer(),
]);
console.log(outputs.map((bytes) => [bytes.length, digest(bytes)]));
for (const bytes of outputs.slice(0, 3)) {
  const { format, width: w, height: h, channels } = await sharp(bytes).metadata();
  console.log(format, w, h, channels);
}
await sharp(Buffer.from('no image')).metadata().catch((error) => console.log(error.message));
