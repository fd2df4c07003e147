'use strict';

const fs = require('fs');
const path = require('path');
const { createHash } = require('crypto');
const Mustache = require('mustache');

const template = fs.readFileSync(path.join(__dirname, 'template.html'), 'utf8');
Mustache.parse(template);

/** An order confirmation for `customer` with `items` rows of made-up goods. */
exports.main = ({ customer = 'nobody', items = 100 }) => {
  const rows = [];
  let seed = 42;
  const random = (limit) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * limit);
  };
  let total = 0;
  for (let number = 1; number <= items; number++) {
    const count = 1 + random(9);
    const cents = 100 + random(100000);
    total += count * cents;
    rows.push({ number, name: `<Article> no. ${random(1e6)}`, count, price: euros(cents), sum: euros(count * cents), gift: random(5) === 0 });
  }
  const html = Mustache.render(template, { customer, rows, total: euros(total) });
  return { html, bytes: Buffer.byteLength(html), sha256: createHash('sha256').update(html).digest('hex') };
};

function euros(cents) {
  return (cents / 100).toFixed(2);
}
