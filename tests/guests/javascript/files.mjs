// Files: streams, promises, callbacks, directories, links, watching what was written.
import fs from 'node:fs';
import fsp from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip, createGunzip } from 'node:zlib';

const dir = fs.mkdtempSync('/tmp/files-');
const at = (name) => path.join(dir, name);
try {
  fs.writeFileSync(at('a'), 'x'.repeat(100_000));
  fs.appendFileSync(at('a'), 'end');
  console.log(fs.statSync(at('a')).size, fs.readFileSync(at('a'), 'utf8').slice(-5));
  await Promise.all([...Array(50).keys()].map((i) => fsp.writeFile(at(`f${i}`), String(i).repeat(i))));
  const sizes = await Promise.all([...Array(50).keys()].map(async (i) => (await fsp.stat(at(`f${i}`))).size));
  console.log(sizes.join(' '));
  await pipeline(fs.createReadStream(at('a')), createGzip(), fs.createWriteStream(at('a.gz')));
  await pipeline(fs.createReadStream(at('a.gz')), createGunzip(), fs.createWriteStream(at('b')));
  console.log(fs.readFileSync(at('a')).equals(fs.readFileSync(at('b'))));
  fs.mkdirSync(at('deep/er/still'), { recursive: true });
  fs.symlinkSync('../a', at('deep/link'));
  console.log(fs.readlinkSync(at('deep/link')), fs.realpathSync(at('deep/link')) === at('a'));
  fs.linkSync(at('a'), at('hard'));
  console.log(fs.statSync(at('hard')).nlink, fs.lstatSync(at('deep/link')).isSymbolicLink());
  fs.renameSync(at('deep/er'), at('moved'));
  console.log(fs.readdirSync(dir, { withFileTypes: true }).filter((e) => !e.name.startsWith('f')).map((e) => e.name + (e.isDirectory() ? '/' : '')).sort());
  const handle = await fsp.open(at('random'), 'w+');
  await handle.write('0123456789', 5);
  await handle.truncate(12);
  const { bytesRead, buffer } = await handle.read(Buffer.alloc(20), 0, 20, 0);
  console.log(bytesRead, JSON.stringify(buffer.subarray(0, bytesRead).toString()));
  await handle.close();
  fs.utimesSync(at('a'), 1_000_000, 2_000_000);
  fs.chmodSync(at('a'), 0o640);
  console.log(fs.statSync(at('a')).mtimeMs, (fs.statSync(at('a')).mode & 0o777).toString(8));
  for (const wrong of ['missing', 'a/below', 'moved']) {
    try { fs.readFileSync(at(wrong)); } catch (error) { console.log(wrong, error.code, error.syscall); }
  }
  try { fs.rmdirSync(at('moved')); } catch (error) { console.log(error.code); }
  console.log(fs.statfsSync(dir).bsize > 0, fs.accessSync(at('a'), fs.constants.R_OK));
} finally {
  fs.rmSync(dir, { recursive: true });
}
console.log(fs.existsSync(dir));
