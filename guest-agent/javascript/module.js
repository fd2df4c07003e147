// Evaluates the module that holds the function, as CommonJS or as an ES module.
'use strict';

const fs = require('fs');
const path = require('path');
const vm = require('vm');
const { Module, builtinModules, createRequire } = require('module');
const { pathToFileURL } = require('url');

const IDENTIFIER = /^[A-Za-z_$][\w$]*$/;
const ES_SYNTAX = /Cannot use import statement|Unexpected token 'export'|Cannot use 'import\.meta'|await is only valid/;

/**
 * Loads `file`, which belongs to the code at `root`. Returns what it exports and, of a CommonJS module, the function
 * `name` of its top level, exported or not.
 */
async function loadModule(file, root, name) {
  const type = path.extname(file) === '.js' ? packageType(file, root) : path.extname(file);
  if (type === 'module' || type === '.mjs') {
    return { exports: await import(pathToFileURL(file).href) };
  }
  if (!['commonjs', 'unknown', '.cjs'].includes(type)) {
    return { exports: createRequire(file)(file) }; // an addon, say: Node knows what to do with it
  }
  const source = fs.readFileSync(file, 'utf8').replace(/^\ufeff/, '');
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

/** The `type` that the nearest package.json declares for `file`, up to `root`: `commonjs`, `module` or `unknown`. */
function packageType(file, root) {
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
  const options = { filename: file, importModuleDynamically: importer(file, require) };
  const parameters = ['exports', 'require', 'module', '__filename', '__dirname'];
  const wanted = IDENTIFIER.test(name) ? `\n;return typeof ${name} === 'function' ? ${name} : undefined` : '';
  let body;
  try {
    body = vm.compileFunction(source + wanted, parameters, options);
  } catch {
    body = vm.compileFunction(source, parameters, options); // the error, if it is one, then shows nothing of ours
  }
  return () => {
    require.cache[file] = module; // for modules that require this one in turn
    const topLevel = body.call(module.exports, module.exports, require, module, file, path.dirname(file));
    module.loaded = true;
    return { exports: module.exports, topLevel };
  };
}

/** What serves `import()` in a CommonJS module. */
function importer(file, require) {
  // Node 18 has no such constant.
  return vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER ?? ((specifier) => {
    if (/^\.{0,2}\//.test(specifier)) {
      return import(new URL(specifier, pathToFileURL(file)).href);
    }
    const isUrl = /^[a-z]+:/.test(specifier);
    return import(isUrl || builtinModules.includes(specifier) ? specifier : pathToFileURL(require.resolve(specifier)).href);
  });
}

/** Imports a `.js` that is an ES module though no package.json says so. */
async function importUndeclared(file, root, source) {
  try {
    return await import(pathToFileURL(file).href); // newer Nodes look at the syntax
  } catch (error) {
    if (file !== root || !(error instanceof SyntaxError) || !ES_SYNTAX.test(error.message)) {
      throw error;
    }
  }
  // A single file has no neighbours to import, so that it can be loaded from memory; `sourceURL` names it in stacks.
  return import(`data:text/javascript,${encodeURIComponent(`${source}\n//# sourceURL=${file}`)}`);
}

function readPackage(directory) {
  const file = path.join(directory, 'package.json');
  return isFile(file) ? JSON.parse(fs.readFileSync(file, 'utf8')) : null;
}

function isFile(file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.isFile() === true;
}

module.exports = { isFile, loadModule, readPackage };
