// deno run --allow-net=127.0.0.1 --allow-read deno.mjs PORT
import handle from './fetch.mjs';

Deno.serve({ hostname: '127.0.0.1', port: Number(Deno.args[0]), onListen() {} }, handle);
