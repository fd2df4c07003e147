// The target of Google's functions-framework for Node.js, which has parsed the JSON of the body already.
'use strict';

const work = require('./work.js');

exports.handle = (request, response) => {
  response.json(work[request.path.slice(1)](request.body));
};
