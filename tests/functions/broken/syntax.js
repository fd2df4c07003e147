exports.main = (args) => { return args[; };
