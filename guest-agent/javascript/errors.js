// Errors as LOAD_FAILED and RAISED carry them: message, type and stack, with the agent's own frames left out.
'use strict';

const path = require('path');

const MAX_MESSAGE_BYTES = 64 * 1024;
const MAX_STACK_BYTES = 256 * 1024;
const MAX_CAUSES = 8;

const AGENT_FRAME = `${__dirname}${path.sep}`;

/** The payload for whatever was thrown: an error, or any other value; even one whose getters throw. */
function describe(thrown) {
  let description;
  try {
    description = isError(thrown) ? describeError(thrown) : describeOther(thrown);
  } catch {
    description = { message: 'a value was thrown that cannot be shown', type: 'Error', stack: '' };
  }
  return JSON.stringify({
    message: cut(description.message, MAX_MESSAGE_BYTES),
    type: cut(description.type, MAX_MESSAGE_BYTES),
    stack: cut(description.stack, MAX_STACK_BYTES),
  });
}

/** The same as text for a log. */
function describeAsText(thrown) {
  const { message, type, stack } = JSON.parse(describe(thrown));
  return stack === '' ? `${type}: ${message}` : stack;
}

function isError(value) {
  // The second test is for errors of another context (`vm`).
  return value instanceof Error || Object.prototype.toString.call(value) === '[object Error]';
}

function describeError(error) {
  const type = String(error.name ?? error.constructor?.name ?? 'Error');
  let message = String(error.message);
  const stacks = [];
  for (let at = error; isError(at) && stacks.length < MAX_CAUSES; at = at.cause) {
    const stack = typeof at.stack === 'string' ? functionFrames(at.stack) : `${at.name}: ${at.message}`;
    stacks.push(stacks.length === 0 ? stack : `caused by: ${stack}`);
  }
  if (error instanceof SyntaxError) {
    // The first line of a syntax error's stack is the place: it is worth nothing if it is not read.
    const place = /^(?:file:\/\/)?(\/.+:\d+)$/m.exec(stacks[0].slice(0, stacks[0].indexOf('\n')));
    if (place !== null) {
      message = `${message} (${place[1]})`;
    }
  }
  return { message, type, stack: stacks.join('\n') };
}

function describeOther(value) {
  let message;
  if (value !== null && typeof value === 'object') {
    try {
      message = JSON.stringify(value);
    } catch {
      message = undefined;
    }
  }
  const type = value === null ? 'null' : typeof value === 'object' ? value.constructor?.name ?? 'object' : typeof value;
  return { message: message ?? String(value), type: String(type), stack: '' };
}

/** Drops the first frame of the agent and all below it: they are the agent's callers in Node. */
function functionFrames(stack) {
  const lines = stack.split('\n');
  const first = lines.findIndex((line) => /^\s+at /.test(line) && line.includes(AGENT_FRAME));
  if (first === -1) {
    return stack;
  }
  let end = first;
  while (end > 0 && /^\s+at .*(\(node:internal\/|\(<anonymous>\)|\(index \d+\)|at node:internal\/)/.test(lines[end - 1])) {
    end -= 1;
  }
  return lines.slice(0, end).join('\n');
}

/** At most `max` bytes of UTF-8, cut between characters. */
function cut(text, max) {
  if (text.length * 3 <= max || Buffer.byteLength(text) <= max) {
    return text;
  }
  const bytes = Buffer.from(text);
  let end = max;
  while ((bytes[end] & 0xc0) === 0x80) {
    end -= 1;
  }
  return bytes.toString('utf8', 0, end);
}

module.exports = { describe, describeAsText };
