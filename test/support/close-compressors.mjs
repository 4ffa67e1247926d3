// Opens compressors and closes them again, so many times, while their threads load their code, or are at work.
import { Compressor } from '../../dist/src/transport/network/compressor.js';

const pages = new Uint8Array(new SharedArrayBuffer(256 * 4096)).map((_, i) => (i % 3) * i);
const times = Number(process.argv[2]);
for (let i = 0; i < times; i += 1) {
  const compressor = new Compressor(() => {}, 1 + (i % 3));
  if (i % 2 === 1) {
    compressor.add(0, 256, pages);
  }
  await new Promise((resolve) => {
    setTimeout(resolve, ((i * 37) % 100) * 3); // somewhere on the way, until it is up
  });
  await compressor.close();
}
console.log(`${times} closed`);
