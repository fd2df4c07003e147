// What a copy of the template loads and runs once, before it is put back and waits for a function.
'use strict';

exports.main = (args) => ({ ...args });
