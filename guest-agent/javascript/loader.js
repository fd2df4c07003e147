// Finds a function: the module in the code, its format, and the function in the module.
'use strict';

const fs = require('fs');
const path = require('path');
const { isFile, loadModule, readIfFile, readPackage } = require('./module.js');

const EXTENSIONS = ['.js', '.mjs', '.cjs'];
const DEFAULT_EXPORT_PATH = ['main'];

/** The code is there, the entry point is not. */
class EntryPointError extends Error {
  get name() {
    return 'EntryPointError';
  }
}

/** Files of the CommonJS modules that are not the last function's. */
let others = new Set();

/** Forgets the CommonJS modules that the last function has loaded; Node cannot forget others. */
function unloadFunction() {
  for (const file of Object.keys(require.cache).filter((file) => !others.has(file))) {
    delete require.cache[file];
  }
}

/**
 * The function that `entryPoint` (`module.export`, or null for the default) names in `code`, the real path of a file or a
 * directory, and its hooks for when a checkpoint is taken and for when it goes on from that, or null.
 */
async function loadFunction(code, entryPoint) {
  others = new Set(Object.keys(require.cache));
  // What can be read is a file: a single one takes as few system calls as can be.
  const source = ['.js', '.cjs'].includes(path.extname(code)) ? readIfFile(code) : null;
  const root = source === null && (path.extname(code) === '' || fs.statSync(code).isDirectory()) ? code : null;
  const { file, exportPath } = root !== null
    ? findInDirectory(root, entryPoint)
    : { file: code, exportPath: entryPoint === null ? DEFAULT_EXPORT_PATH : [entryPoint.slice(entryPoint.lastIndexOf('.') + 1)] };
  const { exports, topLevel } = await loadModule(file, root, exportPath[0], source);
  const call = findFunction(exports, topLevel, exportPath, root === null ? path.basename(file) : path.relative(root, file));
  const hook = (name) => {
    const value = exports?.[name] ?? exports?.default?.[name];
    return typeof value === 'function' ? value : null;
  };
  return { call, beforeCheckpoint: hook('beforeCheckpoint'), afterRestore: hook('afterRestore') };
}

function findInDirectory(root, entryPoint) {
  if (entryPoint === null || !entryPoint.includes('.')) {
    return { file: defaultModule(root), exportPath: entryPoint === null ? DEFAULT_EXPORT_PATH : [entryPoint] };
  }
  // `lib/app.handler` is handler of lib/app; of `app.v2.handler` the longest name of a module counts.
  for (let dot = entryPoint.lastIndexOf('.'); dot > 0; dot = entryPoint.lastIndexOf('.', dot - 1)) {
    const file = findModule(path.join(root, entryPoint.slice(0, dot)), root);
    if (file !== null) {
      return { file, exportPath: entryPoint.slice(dot + 1).split('.') };
    }
  }
  const name = entryPoint.slice(0, entryPoint.lastIndexOf('.'));
  if (name === 'index') {
    return { file: defaultModule(root), exportPath: [entryPoint.slice(entryPoint.lastIndexOf('.') + 1)] };
  }
  const tried = EXTENSIONS.map((extension) => name + extension).join(', ');
  throw new EntryPointError(`the code has no module "${name}" for the entry point "${entryPoint}": there is no ${tried}, nor a directory ${name} with an index.js`);
}

/** What package.json calls the package's module, else index.js. */
function defaultModule(root) {
  const file = findModule(root, root);
  if (file === null) {
    throw new EntryPointError('the code has no default module: there is no index.js, index.mjs or index.cjs, and no package.json whose "exports" or "main" names a file; name it with the entry point, as module.export');
  }
  return file;
}

/** The file for a path without extension, with one, or of a directory; null if there is none. Paths in the folder `root` itself are real ones. */
function findModule(base, root) {
  for (const extension of ['', ...EXTENSIONS]) {
    const file = base + extension;
    const found = fs.lstatSync(file, { throwIfNoEntry: false });
    if (found?.isFile() && path.dirname(file) === root) {
      return file;
    }
    if (found !== undefined && isFile(file)) {
      return fs.realpathSync(file);
    }
  }
  const description = readPackage(base);
  const named = exportsTarget(description?.exports) ?? description?.main;
  if (typeof named === 'string' && named !== '' && path.join(base, named) !== base) {
    const file = findModule(path.join(base, named), root);
    if (file !== null) {
      return file;
    }
  }
  const index = EXTENSIONS.map((extension) => path.join(base, `index${extension}`)).find(isFile);
  return index === undefined ? null : fs.realpathSync(index);
}

/** The target for "." in a package's `exports`: a path, or conditions, of which the first that holds counts. */
function exportsTarget(target) {
  if (target === null || typeof target !== 'object') {
    return target;
  }
  if (Object.hasOwn(target, '.')) {
    return exportsTarget(target['.']);
  }
  const condition = Object.keys(target).find((key) => ['node', 'import', 'require', 'default'].includes(key));
  return condition === undefined ? undefined : exportsTarget(target[condition]);
}

function findFunction(exports, topLevel, exportPath, fileName) {
  const name = exportPath.join('.');
  const candidates = [
    () => member(exports, exportPath),
    () => member(exports?.default, exportPath),
    () => (exportPath.length === 1 ? topLevel : undefined),
  ];
  if (name === 'main') {
    candidates.push(() => exports?.handler, () => exports?.default?.handler, () => exports?.default, () => exports);
  }
  let other;
  for (const candidate of candidates) {
    const value = candidate();
    if (typeof value === 'function') {
      return value;
    }
    other ??= candidates.indexOf(candidate) < 2 ? value : undefined;
  }
  if (other !== undefined) {
    throw new EntryPointError(`"${name}" of ${fileName} is not a function, but of type ${typeof other}`);
  }
  const names = exports !== null && typeof exports === 'object' ? Object.keys(exports) : [];
  const holds = names.length === 0 ? 'it exports nothing' : `it exports ${names.slice(0, 20).join(', ')}`;
  throw new EntryPointError(`${fileName} has no function "${name}": ${holds}`);
}

/** `value.a.b` for the path [a, b]; a function stays bound to the object that it was found on. */
function member(value, names) {
  let owner;
  for (const name of names) {
    if (value === null || (typeof value !== 'object' && typeof value !== 'function')) {
      return undefined;
    }
    owner = value;
    value = value[name];
  }
  return typeof value === 'function' ? value.bind(owner) : value;
}

module.exports = { loadFunction, unloadFunction };
