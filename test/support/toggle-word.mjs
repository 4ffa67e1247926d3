// A thread that writes a word and zeroes it again, for as long as it lives: workerData = { buffer, wordIndex }.
import { parentPort, workerData } from 'node:worker_threads';

const words = new Int32Array(workerData.buffer);
const { wordIndex } = workerData;
parentPort.postMessage('up');
for (;;) {
  for (let i = 0; i < 1_000_000; i += 1) {
    words[wordIndex] = 1;
    words[wordIndex] = 0;
  }
}
