// Stores files under one name again and again, and reads them between; prints how often there was nothing, or not all of it.
// Arguments: folder, a word that makes this process's files its own, how often.
import { FileStore } from '../../dist/src/cli/linux/image/file-store.js';

const [folder, word, times] = process.argv.slice(2);
const store = new FileStore(folder, 'guest');
let torn = 0;
for (let i = 0; i < Number(times); i += 1) {
  const text = `${word} ${i % 2}`;
  store.write({
    packages: { written: text },
    files: new Map([
      ['first', Buffer.from(`first of ${text}`.repeat(1000))],
      ['second', Buffer.from(`second of ${text}`)],
      ['same', Buffer.from('the same in all'.repeat(10_000))],
    ]),
  });
  const read = store.read();
  const written = read?.packages.written;
  if (read === undefined || Buffer.from(read.files.get('second')).toString() !== `second of ${written}`) {
    torn += 1;
  }
}
console.log(torn);
