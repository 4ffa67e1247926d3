/** The naive twin of DirtyLog: the pages that are marked, and the word (32 pages) at which a drain goes on. */
export class NaiveDirtyLog {
  readonly pages: Set<number> = new Set();
  readonly #pageCount: number;
  #word = 0;

  constructor(pageCount: number) {
    this.#pageCount = pageCount;
  }

  markRange(pfn: number, pageCount: number): void {
    for (let page = pfn; page < pfn + pageCount; page += 1) {
      this.pages.add(page);
    }
  }

  /** Every page that shares a byte with `[gpa, gpa + lengthBytes)`. */
  markBytes(gpa: number, lengthBytes: number): void {
    for (let page = 0; page < this.#pageCount; page += 1) {
      const isBefore = (page + 1) * 4096 <= gpa;
      const isBehind = page * 4096 >= gpa + lengthBytes;
      if (!isBefore && !isBehind) {
        this.pages.add(page);
      }
    }
  }

  /** The words that the next slice looks at, and whether the pass is over then. */
  slice(sliceWords: number): { readonly words: readonly number[]; readonly done: boolean } {
    const all = Array.from({ length: Math.ceil(this.#pageCount / 32) }, (_, word) => word);
    const words = all.slice(this.#word, this.#word + sliceWords);
    const done = words.at(-1) === all.at(-1);
    this.#word = done ? 0 : this.#word + sliceWords;
    return { words, done };
  }

  restartDrain(): void {
    this.#word = 0;
  }

  /** The marked pages of a word. */
  inWord(word: number): number[] {
    return [...this.pages].filter((pfn) => Math.floor(pfn / 32) === word).sort((a, b) => a - b);
  }
}
