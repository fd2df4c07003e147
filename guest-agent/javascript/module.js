// Evaluates the module that holds the function, as CommonJS or as an ES module.
'use strict';

const fs = require('fs');
const path = require('path');
const vm = require('vm');
const { Module, createRequire } = require('module');
const { pathToFileURL } = require('url');

const IDENTIFIER = /^[A-Za-z_$][\w$]*$/;
const ES_SYNTAX = /Cannot use import statement|Unexpected token 'export'|Cannot use 'import\.meta'|await is only valid/;

/**
 * Loads `file`, which belongs to the tree at `root` or, if that is null, is all there is; `source` is its text, if it was read already. Returns
 * what it exports and, of a CommonJS module, the function `name` of its top level, exported or not.
 */
async function loadModule(file, root, name, source = null) {
  const type = path.extname(file) === '.js' ? packageType(file, root) : path.extname(file);
  if (type === 'module' || type === '.mjs') {
    return { exports: await importFile(file) };
  }
  if (!['commonjs', 'unknown', '.cjs'].includes(type)) {
    return { exports: createRequire(file)(file) }; // an addon, say: Node knows what to do with it
  }
  source ??= readText(file);
  let run;
  try {
    run = compile(source, file, name);
  } catch (error) {
    if (type === 'unknown' && error instanceof SyntaxError && ES_SYNTAX.test(error.message)) {
      return { exports: await importUndeclared(file, root, source) };
    }
    throw error;
  }
  return run();
}

/** The text of a file. */
function readText(file) {
  const text = fs.readFileSync(file, 'utf8');
  return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
}

/** The same; null if there is no such file, or a directory. */
function readIfFile(file) {
  try {
    return readText(file);
  } catch (error) {
    if (['EISDIR', 'ENOENT', 'ENOTDIR'].includes(error.code)) {
      return null;
    }
    throw error;
  }
}

/** The `type` that the nearest package.json declares for `file`, up to `root`: `commonjs`, `module` or `unknown`. */
function packageType(file, root) {
  if (root === null) {
    return 'unknown';
  }
  for (let directory = path.dirname(file); ; directory = path.dirname(directory)) {
    const description = readPackage(directory);
    if (description !== null) {
      return ['commonjs', 'module'].includes(description.type) ? description.type : 'unknown';
    }
    if (directory.length <= root.length) {
      return 'unknown';
    }
  }
}

/** Compiles a CommonJS module. Unlike `require` this also yields a function that the module does not export. */
function compile(source, file, name) {
  const require = createRequire(file);
  const module = new Module(file);
  module.filename = file;
  module.paths = require.resolve.paths('x') ?? [];
  const loader = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  const options = { filename: file, importModuleDynamically: loader };
  const parameters = ['exports', 'require', 'module', '__filename', '__dirname'];
  let text = IDENTIFIER.test(name) ? `${source}\n;return typeof ${name} === 'function' ? ${name} : undefined` : source;
  let body;
  try {
    body = vm.compileFunction(text, parameters, options);
  } catch {
    text = source; // the error, if it is one, then shows nothing of ours
    body = vm.compileFunction(text, parameters, options);
  }
  return () => {
    require.cache[file] = module; // for modules that require this one in turn
    // Node 18 has no such loader: there only its own way of compiling serves `import()`.
    const topLevel = loader === undefined
      ? module._compile(text, file)
      : body.call(module.exports, module.exports, require, module, file, path.dirname(file));
    module.loaded = true;
    return { exports: module.exports, topLevel };
  };
}

/** Imports an ES module. Node keeps the place of a syntax error to itself until the error is shown: this adds it. */
async function importFile(file) {
  try {
    return await import(pathToFileURL(file).href);
  } catch (error) {
    if (error instanceof SyntaxError && String(error.stack).startsWith('SyntaxError')) {
      const plain = error.stack;
      try {
        vm.runInNewContext('throw error', { error }, { filename: 'rethrown' });
      } catch {
        error.stack = error.stack.startsWith('rethrown') ? plain : error.stack;
      }
    }
    throw error;
  }
}

/** Imports a `.js` that is an ES module though no package.json says so. */
async function importUndeclared(file, root, source) {
  try {
    return await importFile(file); // newer Nodes look at the syntax
  } catch (error) {
    if (root !== null || !(error instanceof SyntaxError) || !ES_SYNTAX.test(error.message)) {
      throw error;
    }
  }
  // A single file has no neighbours to import, so that it can be loaded from memory; `sourceURL` names it in stacks.
  return import(`data:text/javascript,${encodeURIComponent(`${source}\n//# sourceURL=${file}`)}`);
}

function readPackage(directory) {
  const text = readIfFile(path.join(directory, 'package.json'));
  return text === null ? null : JSON.parse(text);
}

function isFile(file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.isFile() === true;
}

module.exports = { isFile, loadModule, readIfFile, readPackage };
