'use strict';

exports.main = ({ name = 'world' }) => ({ message: `Hello, ${name}!` });
