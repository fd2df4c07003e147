// The Node agent: serves functions to Hydra over a stream socket, as ../PROTOCOL.md says.
//
//   node [flags] agent.js --function FD    one function, on descriptor FD
//   node [flags] agent.js --host FD        many functions, each in a worker thread; FD is the control channel
'use strict';

function main() {
  const [mode, text] = process.argv.splice(2);
  const fd = /^\d+$/.test(text) ? Number(text) : -1;
  if ((mode !== '--function' && mode !== '--host') || fd < 3) {
    process.stderr.write('usage: node agent.js --function FD | --host FD   (FD: an inherited stream socket, at least 3)\n');
    process.exit(64);
  }
  if (mode === '--host') {
    require('./host.js').serveHost(fd);
  } else {
    const { EXIT } = require('./channel.js');
    require('./session.js').serveFunction({ fd }, { onEnd: (error) => process.exit(error === null ? 0 : EXIT.protocol) });
  }
}

main();
