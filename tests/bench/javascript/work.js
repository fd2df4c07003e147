// The two functions that are measured. Hydra runs this file as it is; the other servers call it.
// What `page` needs is required there: `hello` is to cost what a call does that needs nothing, in time and in memory.
'use strict';

const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#x27;' };

function escape(text) {
  return String(text).replace(/[&<>"']/g, (character) => ESCAPES[character]);
}

/** Greets: what a call costs that does nothing. */
exports.hello = ({ name = 'world' }) => ({ message: `Hello, ${name}!` });

/** Builds a table of the items and its digest. */
exports.page = ({ title, items }) => {
  const { createHash } = require('node:crypto');
  const rows = items.map(({ name, price, count, note }) =>
    `<tr><td>${escape(name)}</td><td>${price.toFixed(2)}</td><td>${count}</td><td>${escape(note)}</td></tr>`);
  const html = `<h1>${escape(title)}</h1><table>${rows.join('')}</table>`;
  return { rows: rows.length, sha256: createHash('sha256').update(html).digest('hex'), html };
};

/** The page, or a greeting without items, after so many seconds: many such calls at once need many instances. */
exports.hold = (args) => {
  const answer = () => (args.items ? exports.page(args) : exports.hello(args));
  if (!args.hold) return answer();
  return new Promise((resolve) => { setTimeout(() => resolve(answer()), args.hold * 1000); });
};
