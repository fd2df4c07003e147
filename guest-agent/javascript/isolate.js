// An isolate: the worker thread's side of the language host.
'use strict';

const workerThreads = require('worker_threads');
const { serveFunction } = require('./session.js');

const { socket, token } = workerThreads.workerData;
const host = workerThreads.parentPort;
workerThreads.workerData = null; // the token is not for the function

serveFunction({ path: socket }, {
  token,
  onEnd: (error) => {
    host.postMessage({ end: error === null ? 'closed' : error.message });
    process.exit(0);
  },
});
