// Unix sockets, HTTP, datagrams and refusals, all between this program and itself.
'use strict';
const net = require('net'), http = require('http'), dgram = require('dgram'), fs = require('fs');
const path = `/tmp/hydra-node-${process.pid}-${Date.now()}.sock`;
const say = (...a) => console.log(...a);

(async () => {
  await new Promise(done => {
    const s = net.createServer(c => { c.on('data', d => c.write(String(d).toUpperCase())); c.on('end', () => c.end()); });
    s.listen(path, () => {
      const c = net.connect(path, () => c.write('unix'));
      c.on('data', d => { say('unix', String(d)); c.end(); });
      c.on('close', () => s.close(done));
    });
  });
  say('left', fs.existsSync(path));
  await new Promise(done => {
    const s = http.createServer((q, r) => { let n = 0; q.on('data', d => n += d.length); q.on('end', () => r.end(`got ${n} at ${q.url}`)); });
    s.listen(0, '127.0.0.1', async () => {
      const url = `http://127.0.0.1:${s.address().port}/x`;
      for (let i = 0; i < 3; i++) say(await (await fetch(url, { method: 'POST', body: 'y'.repeat(300000) })).text());
      s.close(done); s.closeAllConnections();
    });
  });
  await new Promise(done => {
    const s = dgram.createSocket('udp4'), c = dgram.createSocket('udp4');
    s.on('message', (m, from) => s.send('back ' + m, from.port, from.address));
    s.bind(0, '127.0.0.1', () => c.send('udp', s.address().port, '127.0.0.1'));
    c.on('message', m => { say(String(m)); c.close(); s.close(done); });
  });
  const refused = net.connect(1, '127.0.0.1'); refused.on('error', e => say(e.code));
  const absent = net.connect('/tmp/hydra-nobody.sock'); absent.on('error', e => say(e.code));
})();
