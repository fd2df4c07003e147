// A server and clients in one program: http with keep-alive and streams, raw sockets, a Unix socket, datagrams, name lookup.
import http from 'node:http';
import net from 'node:net';
import dgram from 'node:dgram';
import dns from 'node:dns/promises';
import fs from 'node:fs';
import os from 'node:os';
import { once } from 'node:events';

const server = http.createServer(async (request, response) => {
  let size = 0;
  for await (const chunk of request) size += chunk.length;
  response.setHeader('x-size', size);
  if (request.url === '/big') {
    for (let i = 0; i < 64; i++) {
      if (!response.write(Buffer.alloc(16_384, i))) await once(response, 'drain');
    }
    response.end();
  } else {
    response.end(`${request.method} ${request.url}`);
  }
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const base = `http://127.0.0.1:${server.address().port}`;
const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
const get = (path, body) => new Promise((resolve, reject) => {
  const request = http.request(base + path, { agent, method: body ? 'POST' : 'GET' }, async (response) => {
    const chunks = [];
    for await (const chunk of response) chunks.push(chunk);
    resolve([response.statusCode, response.headers['x-size'], Buffer.concat(chunks)]);
  });
  request.on('error', reject);
  request.end(body);
});
const answers = await Promise.all([...Array(40).keys()].map((i) => get(`/${i}`, i % 2 ? 'y'.repeat(i * 1000) : undefined)));
console.log(answers.map(([status, size, body]) => `${status} ${size} ${body}`).join('\n'));
const [, , big] = await get('/big');
console.log(big.length, big[0], big.at(-1));
const fetched = await Promise.all([...Array(10).keys()].map((i) => fetch(`${base}/fetch${i}`).then((r) => r.text())));
console.log(fetched.join(' '));
agent.destroy();
server.closeAllConnections();
server.close();

const path = `/tmp/socket-${process.pid}-${Math.random()}`;
const echo = net.createServer((socket) => socket.pipe(socket)).listen(path);
await once(echo, 'listening');
const socket = net.connect(path);
let back = 0;
socket.on('data', (data) => { back += data.length; if (back === 300_000) socket.end(); });
socket.write(Buffer.alloc(300_000));
await once(socket, 'close');
console.log(back, fs.existsSync(path));
echo.close();
await once(echo, 'close');
console.log(fs.existsSync(path));

const receiver = dgram.createSocket('udp4');
receiver.bind(0, '127.0.0.1');
await once(receiver, 'listening');
const sender = dgram.createSocket('udp4');
sender.send('hello', receiver.address().port, '127.0.0.1');
const [message, from] = await once(receiver, 'message');
console.log(message.toString(), from.address);
receiver.close();
sender.close();
await new Promise((resolve) => {
  const refused = net.connect(1, '127.0.0.1');
  refused.on('error', (error) => { console.log(error.code); resolve(); });
});
console.log((await dns.lookup('localhost', { family: 4 })).address, os.networkInterfaces().lo?.[0].address);
