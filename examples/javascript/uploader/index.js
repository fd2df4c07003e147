'use strict';

const http = require('http');
const { createHash } = require('crypto');

/** Downloads `from`, uploads it to `to`, and checks that what arrived is what was sent. */
exports.main = async ({ from, to }) => {
  const content = await request('GET', from, 200);
  const sha256 = createHash('sha256').update(content).digest('hex');
  const receipt = JSON.parse(await request('PUT', to, 201, content));
  if (receipt.bytes !== content.length || receipt.sha256 !== sha256) {
    throw new Error(`${to} received ${receipt.bytes} bytes with SHA-256 ${receipt.sha256}, sent were ${content.length} with ${sha256}`);
  }
  return { name: receipt.name, bytes: content.length, sha256 };
};

function request(method, url, status, body) {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'Content-Type': 'application/octet-stream', 'Content-Length': body.length };
    const call = http.request(url, { method, headers }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        if (response.statusCode === status) {
          resolve(Buffer.concat(chunks));
        } else {
          reject(new Error(`${method} ${url} answered ${response.statusCode}`));
        }
      });
    });
    call.on('error', reject);
    call.end(body);
  });
}
