// Node's own HTTP server and nothing else: node node-http.js PORT
'use strict';

const http = require('node:http');
const work = require('./work.js');

const server = http.createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const result = work[request.url.slice(1)](JSON.parse(Buffer.concat(pieces).toString()));
    const body = Buffer.from(JSON.stringify(result));
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': body.length });
    response.end(body);
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1');
