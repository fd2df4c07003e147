// A handler of the web's own Request and Response, as workerd, Deno and Bun serve it.
import work from './work.js';

export default async function handle(request) {
  const name = request.url.slice(request.url.lastIndexOf('/') + 1);
  return Response.json(work[name](await request.json()));
}
