// What an agent runs before its template is taken, and what a copy of the template runs once more before it is put back and waits for a function. It
// loads what functions commonly do, which is then there for all of them.
'use strict';

exports.main = async (args) => {
  const [crypto, fs, http, os, path, url, util, zlib] = ['crypto', 'fs', 'http', 'os', 'path', 'url', 'util', 'zlib'].map(require);
  require('https');
  require('stream');
  const text = JSON.stringify({ at: new Date().toISOString(), file: path.basename(__filename) });
  await util.promisify(fs.readFile)(__filename);
  return { ...args, digest: crypto.createHash('sha256').update(text).digest('hex'), text: JSON.parse(text), host: os.EOL + url.format(new URL('http://a/')) + typeof http.get + typeof zlib.gzip };
};
