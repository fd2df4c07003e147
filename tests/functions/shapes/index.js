// A function of the default entry point, with a package beside it.
const { greet } = require('greeting');

exports.handler = async (args) => greet(args.name);
