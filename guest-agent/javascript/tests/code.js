// Writes functions for the tests into a temporary directory.
'use strict';

const fs = require('fs');
const os = require('os');
const path = require('path');

const directories = [];

/** A directory with `files` (`{ 'lib/app.js': 'source' }`); its path. */
function tree(files) {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'function-')));
  directories.push(directory);
  for (const [name, content] of Object.entries(files)) {
    const file = path.join(directory, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  }
  return directory;
}

/** A single file; its path. */
function file(source, name = 'code.js') {
  return path.join(tree({ [name]: source }), name);
}

function removeAll() {
  for (const directory of directories.splice(0)) {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

module.exports = { tree, file, removeAll };
