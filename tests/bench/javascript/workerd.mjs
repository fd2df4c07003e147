// The worker of workerd.
import handle from './fetch.mjs';

export default { fetch: handle };
