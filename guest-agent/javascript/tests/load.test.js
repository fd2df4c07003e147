// Which function an entry point names, in function mode.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { after, test } = require('node:test');
const { file, tree, removeAll } = require('./code.js');
const { startFunction } = require('./driver.js');

after(removeAll);

/** Loads in an agent of its own; yields LOADED's or LOAD_FAILED's frame and, if loaded, the answer to `{"n":1}`. */
async function load(code, entryPoint) {
  const { peer, stop } = await startFunction();
  try {
    const loaded = await peer.load(code, entryPoint);
    const answer = loaded.kind === 'LOADED' ? await peer.invoke({ n: 1 }) : JSON.parse(loaded.text);
    return { kind: loaded.kind, answer };
  } finally {
    stop();
  }
}

const FOUND = [
  ['exports.main', () => file('exports.main = (a) => a.n + 1'), null],
  ['a file whatever the module is called', () => file('exports.main = (a) => a.n + 1', 'x.js'), 'index.main'],
  ['a file, export only', () => file('exports.run = (a) => a.n + 1'), 'run'],
  ['handler by default', () => file('exports.handler = async (a) => a.n + 1'), null],
  ['module.exports itself', () => file('module.exports = (a) => a.n + 1'), null],
  ['a top-level function', () => file('function main(a) { return a.n + 1 }'), null],
  ['a top-level constant, after a comment without a line end', () => file('const main = (a) => a.n + 1 // end'), 'index.main'],
  ['a named top-level function', () => file('async function go(a) { return a.n + 1 }'), 'index.go'],
  ['a file with #! and a byte order mark', () => file('\ufeff#!/usr/bin/env node\nexports.main = (a) => a.n + 1'), null],
  ['.mjs', () => file('export const main = (a) => a.n + 1', 'x.mjs'), 'x.main'],
  ['.mjs, default export', () => file('export default (a) => a.n + 1', 'x.mjs'), null],
  ['.mjs, default object', () => file('export default { go: (a) => a.n + 1 }', 'x.mjs'), 'x.go'],
  ['.mjs, top-level await', () => file('const one = await 1; export function main(a) { return a.n + one }', 'x.mjs'), null],
  ['ES syntax in .js that nothing declares', () => file('import path from "node:path"; export const main = (a) => a.n + path.sep.length'), null],
  ['index.js of a tree', () => tree({ 'index.js': 'exports.main = (a) => a.n + require("./b").one', 'b.js': 'exports.one = 1' }), 'index.main'],
  ['a nested module', () => tree({ 'lib/app.js': 'exports.handler = (a) => a.n + 1' }), 'lib/app.handler'],
  ['a module with a dot in its name', () => tree({ 'app.v2.js': 'exports.go = (a) => a.n + 1' }), 'app.v2.go'],
  ['an export of an export', () => tree({ 'app.js': 'exports.a = { one: 1, b(a) { return a.n + this.one } }' }), 'app.a.b'],
  ['"main" of package.json', () => tree({ 'package.json': { main: 'src/start' }, 'src/start.js': 'exports.main = (a) => a.n + 1' }), null],
  ['"exports" of package.json before "main"', () => tree({
    'package.json': { main: 'a.js', exports: { '.': { types: './x.d.ts', node: { default: './b.cjs' } } } },
    'a.js': '', 'b.cjs': 'exports.main = (a) => a.n + 1',
  }), 'index.main'],
  ['"type" of package.json, with node_modules', () => tree({
    'package.json': { type: 'module' }, 'index.js': 'import one from "one"; import { x } from "./x.js"; export const main = (a) => a.n + one * x',
    'x.js': 'export const x = 1', 'node_modules/one/index.js': 'module.exports = 1', 'node_modules/one/package.json': { name: 'one' },
  }), 'index.main'],
  ['CommonJS with node_modules and import()', () => tree({
    'index.js': 'exports.main = async (a) => a.n + require("one") * (await import("./x.mjs")).x * (await import("one")).default + (await import("fs")).constants.F_OK',
    'x.mjs': 'export const x = 1', 'node_modules/one/index.js': 'module.exports = 1',
  }), 'index.main'],
  ['a module that is required by what it requires', () => tree({
    'index.js': 'exports.one = 1; const b = require("./b"); exports.main = (a) => a.n + b()', 'b.js': 'const i = require("./index"); module.exports = () => i.one',
  }), null],
];

test('a later one takes the place of the first', async () => {
  const { peer, stop } = await startFunction();
  try {
    for (const value of [1, 2]) {
      const code = tree({ 'index.js': 'exports.main = (a) => a.n + require("./b").value', 'b.js': `exports.value = ${value}` });
      assert.strictEqual((await peer.load(code)).kind, 'LOADED');
      assert.deepStrictEqual(await peer.invoke({ n: 1 }), { kind: 'RESULT', text: String(1 + value) });
    }
    // The same place with another content, too.
    const code = file('exports.main = () => "old"');
    assert.strictEqual((await peer.load(code)).kind, 'LOADED');
    fs.writeFileSync(code, 'exports.main = () => "new"');
    assert.strictEqual((await peer.load(code)).kind, 'LOADED');
    assert.deepStrictEqual(await peer.invoke({}), { kind: 'RESULT', text: 'new' });
  } finally {
    stop();
  }
});

for (const [name, code, entryPoint] of FOUND) {
  test(`finds ${name}`, async () => {
    const { kind, answer } = await load(code(), entryPoint);
    assert.deepStrictEqual([kind, answer], ['LOADED', { kind: 'RESULT', text: '2' }]);
  });
}

const REFUSED = [
  ['a missing export', { 'index.js': 'exports.a = 1; exports.b = 2' }, 'index.main', 'EntryPointError', /index\.js has no function "main": it exports a, b/],
  ['an export that is no function', { 'index.js': 'exports.main = "x"' }, null, 'EntryPointError', /"main" of index\.js is not a function, but of type string/],
  ['a missing module', { 'index.js': '' }, 'app.main', 'EntryPointError', /no module "app".*app\.js, app\.mjs, app\.cjs/],
  ['an empty tree', { 'read.me': '' }, null, 'EntryPointError', /no default module/],
  ['a syntax error', { 'index.js': 'let a;\nlet b = };' }, null, 'SyntaxError', /^Unexpected token '}' \(.*index\.js:2\)$/],
  ['a syntax error in an ES module', { 'index.mjs': 'let a;\nlet b = };' }, null, 'SyntaxError', /^Unexpected token '}' \(.*index\.mjs:2\)$/],
  ['a missing package', { 'index.js': 'require("no-such-package")' }, null, 'Error', /Cannot find module 'no-such-package'/],
  ['an error at the top level', { 'index.js': 'function f() { throw new TypeError("at once") }\nf()' }, null, 'TypeError', /^at once$/],
  ['a broken package.json', { 'package.json': '{', 'index.js': '' }, null, 'SyntaxError', /JSON/],
];
for (const [name, files, entryPoint, type, message] of REFUSED) {
  test(`refuses ${name}`, async () => {
    const { kind, answer } = await load(tree(files), entryPoint);
    assert.strictEqual(kind, 'LOAD_FAILED');
    assert.strictEqual(answer.type, type);
    assert.match(answer.message, message);
    assert.doesNotMatch(answer.stack, /guest-agent/);
  });
}

test('shows where the top level failed', async () => {
  const { answer } = await load(tree({ 'index.js': 'function f() { throw new Error("x") }\nf()' }), null);
  assert.match(answer.stack, /^Error: x\n {4}at f \(.*index\.js:1:22\)\n {4}at .*index\.js:2:1\)?$/);
});

test('refuses code that is not there', async () => {
  const { kind, answer } = await load('/no/such/code.js', null);
  assert.strictEqual(kind, 'LOAD_FAILED');
  assert.match(answer.message, /ENOENT.*\/no\/such\/code\.js/);
});
