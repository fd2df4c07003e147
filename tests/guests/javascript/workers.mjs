// Threads: workers with messages, shared memory, Atomics, transfer, termination, and a broadcast.
import { Worker, isMainThread, parentPort, workerData, MessageChannel, threadId } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { once } from 'node:events';

const file = fileURLToPath(import.meta.url);
if (!isMainThread) {
  if (workerData.kind === 'count') {
    const cells = new Int32Array(workerData.shared);
    for (let i = 0; i < 20_000; i++) Atomics.add(cells, 0, 1);
    Atomics.wait(cells, 1, 0);
    parentPort.postMessage(cells[1]);
  } else if (workerData.kind === 'loop') {
    parentPort.postMessage('looping');
    for (;;);
  } else if (workerData.kind === 'throw') {
    throw new TypeError('from a worker');
  } else {
    parentPort.on('message', ({ port, buffer }) => {
      port.postMessage(new Uint8Array(buffer).reduce((a, b) => a + b, 0));
      port.close();
    });
    parentPort.once('message', () => setTimeout(() => parentPort.unref(), 10));
  }
} else {
  const shared = new SharedArrayBuffer(8);
  const cells = new Int32Array(shared);
  const workers = [...Array(6)].map(() => new Worker(file, { workerData: { kind: 'count', shared } }));
  const messages = workers.map((worker) => once(worker, 'message'));
  while (Atomics.load(cells, 0) < 120_000) await new Promise((resolve) => setTimeout(resolve, 5));
  Atomics.store(cells, 1, 7);
  const counted = Promise.all(messages);
  const waker = setInterval(() => Atomics.notify(cells, 1), 1);
  console.log(cells[0], (await counted).map(([message]) => message).join(' '));
  clearInterval(waker);
  await Promise.all(workers.map((worker) => worker.terminate()));

  const looping = new Worker(file, { workerData: { kind: 'loop' } });
  await once(looping, 'message');
  console.log('terminated', await looping.terminate());

  const failing = new Worker(file, { workerData: { kind: 'throw' } });
  const [error] = await once(failing, 'error');
  console.log(error.name, error.message);

  const adder = new Worker(file, { workerData: { kind: 'add' } });
  const { port1, port2 } = new MessageChannel();
  const buffer = new Uint8Array(1000).fill(3).buffer;
  adder.postMessage({ port: port2, buffer }, [port2, buffer]);
  console.log((await once(port1, 'message'))[0], buffer.byteLength, threadId);
  await adder.terminate();
}
