// The number of the isolate that this runs in: each that is made has a higher one.
'use strict';

exports.main = () => require('worker_threads').threadId;
