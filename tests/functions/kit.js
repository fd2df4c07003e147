'use strict';
// What the end-to-end tests ask of a function, in JavaScript; kit.py and Kit.java do the same.
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

console.log('loaded');
let calls = 0;
let kept = [];
let ticks = 0;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

exports.main = (args) => {
  calls += 1;
  const action = args === null || typeof args !== 'object' ? undefined : args.do;
  switch (action) {
    case undefined:
      return args;
    case 'count':
      return calls;
    case 'sleep':
      console.log(args.text);
      return pause(args.ms).then(() => 'slept');
    case 'loop':
      for (;;);
    case 'hog':
      return hog(args, () => Array.from({ length: 1 << 17 }, (_, i) => i + 0.5));
    case 'hog outside':
      return hog(args, () => Buffer.alloc(1 << 20, 1));
    case 'raise':
      throw new RangeError('deliberate: ' + args.text);
    case 'print':
      console.log(args.text);
      console.error(args.text);
      return 'printed';
    case 'flood':
      for (let line = 0; line < args.lines; line++) console.log('f'.repeat(1000));
      return 'flooded';
    case 'exit':
      return process.exit(3);
    case 'large':
      return 'x'.repeat(args.length);
    case 'unserialisable': {
      const circle = {};
      circle.circle = circle;
      return circle;
    }
    case 'read':
      return fs.readFileSync(args.path, 'utf8');
    case 'write':
      fs.writeFileSync(args.path, args.text);
      return 'written';
    case 'list':
      return fs.readdirSync(args.path).sort();
    case 'where':
      return path.dirname(__filename);
    case 'ask':
      return new Promise((resolve, reject) => {
        http.get(args.url, (response) => resolve(response.resume().statusCode)).on('error', reject);
      });
    case 'environment':
      return Object.keys(process.env).sort();
    case 'background':
      setInterval(() => { ticks += 1; }, 10);
      return 'started';
    case 'ticks':
      return ticks;
    default:
      throw new RangeError('unknown: ' + action);
  }
};

async function hog(args, allocate) {
  for (let mib = 0; mib < args.mib; mib++) {
    kept.push(allocate());
    await pause(1);
  }
  await pause(args.hold ?? 0);
  kept = [];
  return 'held';
}

exports.later = async (args) => {
  await pause(10);
  return exports.main(args);
};
