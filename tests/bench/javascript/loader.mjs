// A worker of workerd that has each request answered by an isolate that was not there before.
import main from './workerd.mjs';
import fetch from './fetch.mjs';
import work from './work.js';

const code = {
  compatibilityDate: '2025-09-01',
  compatibilityFlags: ['nodejs_compat'],
  mainModule: 'workerd.mjs',
  modules: { 'workerd.mjs': { js: main }, 'fetch.mjs': { js: fetch }, 'work.js': { cjs: work } },
  globalOutbound: null,
};
let isolates = 0;

export default {
  fetch: (request, { loader }) => loader.get(String(isolates++), () => code).getEntrypoint().fetch(request),
};
