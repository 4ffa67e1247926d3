import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { inflateRawSync } from 'node:zlib';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { htmlReport } from '../../dist/src/report/html/render.js';
import { PAGE_FATES } from '../../src/migration/page-fates.js';
import { decodePageRuns } from '../../src/report/page-runs.js';
import type { BenchReport } from '../../src/report/schema.js';
import { CHROMIUM, launchChromium } from '../support/chromium.js';

const CLI = fileURLToPath(new URL('../../dist/src/cli/main.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'lacuna-report-'));
const file = join(folder, 'report.html');
const PHONE: BrowserContextOptions = { viewport: { width: 390, height: 844 }, hasTouch: true };

describe.skipIf(CHROMIUM === undefined)('the HTML report, in Chromium', () => {
  let browser: Browser;
  let report: BenchReport;

  beforeAll(async () => {
    const json = join(folder, 'report.json');
    const [ended, launched] = await Promise.all([
      promisify(execFile)(process.execPath, [
        ...[CLI, 'bench', '--memory', '64MiB', '--free', '60%', '--free-memory', 'data'],
        ...['--runs', '1', '--link', 'unlimited', '--quiet', '--json', json, '--html', file],
      ]),
      launchChromium(),
    ]);
    expect(ended.stdout).toContain(`with charts: ${file}`);
    browser = launched;
    report = JSON.parse(readFileSync(json, 'utf8')) as BenchReport;
  });

  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true });
  });

  /** Opens a page without a network; what it complains of and asks for is kept. */
  async function open(
    options: BrowserContextOptions = {},
    path: string = file,
  ): Promise<{ page: Page; complaints: string[]; asked: string[] }> {
    const context = await browser.newContext({ ...options, offline: true, acceptDownloads: true });
    const page = await context.newPage();
    const complaints: string[] = [];
    const asked: string[] = [];
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') {
        complaints.push(message.text());
      }
    });
    page.on('request', (request) => {
      if (!/^(blob|data):/.test(request.url())) {
        asked.push(request.url());
      }
    });
    await page.goto(pathToFileURL(path).href);
    await page.waitForSelector('html[data-ready]');
    return { page, complaints, asked };
  }

  /** How many colours the first chart has. */
  function coloursOf(page: Page, selector: string): Promise<number> {
    return page
      .locator(selector)
      .first()
      .evaluate((canvas: HTMLCanvasElement) => {
        const { data } = canvas.getContext('2d')!.getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;
      });
  }

  async function mapIsDrawn(page: Page): Promise<void> {
    await page.waitForFunction(
      () => Number(document.querySelector<HTMLElement>('canvas.map')?.dataset['painted']) > 0,
    );
  }

  const papers = [
    ['light', { colorScheme: 'light' }],
    ['dark', { colorScheme: 'dark' }],
    ['on a phone', PHONE],
  ] as const satisfies readonly (readonly [string, BrowserContextOptions])[];

  it.each(papers)('shows itself %s, asks for nothing and complains of nothing', async (_name, options) => {
    const { page, complaints, asked } = await open(options);
    await mapIsDrawn(page);
    expect(await page.locator('.verdict').textContent()).toContain('none was lost');
    expect(await page.locator('section h3').allTextContents()).toHaveLength(3);
    await page.waitForFunction(() =>
      [...document.querySelectorAll('.chart canvas')].every(({ clientWidth }) => clientWidth > 100),
    );
    expect(await coloursOf(page, '.chart canvas')).toBeGreaterThan(4);
    expect(await coloursOf(page, 'canvas.map')).toBeGreaterThan(1);
    // Nothing sticks out to the side.
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(
      0,
    );
    expect(complaints).toEqual([]);
    expect(asked).toEqual([pathToFileURL(file).href]);
    await page.context().close();
  });

  it('has dark paper where the reader wants it dark, and changes when that does', async () => {
    const { page } = await open({ colorScheme: 'light' });
    const paper = (): Promise<string> => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await paper();
    await mapIsDrawn(page);
    const painted = await page.locator('canvas.map').getAttribute('data-painted');
    await page.emulateMedia({ colorScheme: 'dark' });
    expect(await paper()).not.toBe(light);
    await page.waitForFunction(
      (before) => document.querySelector<HTMLElement>('canvas.map')?.dataset['painted'] !== before,
      painted,
    );
    await page.context().close();
  });

  it('is used by keyboard: chosen from, zoomed, unfolded; and the map says what the report says', async () => {
    const { page, complaints } = await open();
    await mapIsDrawn(page);
    const reach = async (selector: string): Promise<void> => {
      for (let i = 0; i < 60; i += 1) {
        await page.keyboard.press('Tab');
        if (await page.evaluate((wanted) => document.activeElement?.matches(wanted) === true, selector)) {
          return;
        }
      }
      throw new Error(`the Tab key does not come to ${selector}`);
    };
    await reach('summary');
    await page.keyboard.press('Enter');
    expect(await page.locator('details[open] table caption').first().textContent()).toBe('Time by baseline');
    await reach('select');
    const run = report.runs.find(({ baseline }) => baseline === 'both')!;
    expect(await page.evaluate(() => (document.activeElement as HTMLSelectElement).selectedIndex)).toBe(
      report.runs.indexOf(run),
    );
    await reach('.legend button');
    await page.keyboard.press('Space');
    expect(await page.locator('.legend button[aria-pressed=true]').count()).toBe(1);
    await reach('canvas.map');
    for (const key of ['+', '+', '+', 'ArrowDown', 'ArrowRight', '+', 'ArrowLeft']) {
      await page.keyboard.press(key);
    }
    const where = (await page.locator('.where').textContent())!;
    const pfn = Number(/^page (\d+) at 0x/.exec(where)![1]);
    const fates = decodePageRuns(inflateRawSync(Buffer.from(run.pages.map!, 'base64')), run.pages.pfnSpan);
    const names: Record<string, string> = {
      sent: 'sent once',
      zero: 'zero',
      skipped: 'left behind',
      resent: 'more than once',
    };
    expect(where).toContain(names[PAGE_FATES[fates[pfn]!]!]);
    expect(complaints).toEqual([]);
    await page.context().close();
  });

  it('shows another migration when it is chosen', async () => {
    const { page } = await open();
    await mapIsDrawn(page);
    const none = report.runs.findIndex(({ baseline }) => baseline === 'none');
    await page.locator('section select').first().selectOption({ index: none });
    await page.waitForFunction(() => document.querySelectorAll('.legend button').length > 0);
    expect((await page.locator('.legend').textContent())!).not.toContain('left behind');
    expect((await page.locator('.moments').textContent())!).not.toContain('REPORT_START');
    await page.context().close();
  });

  it.each([
    ['command-register', 'REPORT_START: free pages asked for, id '],
    ['virtio', 'free_page_hint_cmd_id: free pages asked for, id '],
  ] as const)('names a request for a report in the words of the dialect %s', async (dialect, words) => {
    const path = join(folder, `${dialect}.html`);
    const runs = report.runs.filter(({ baseline }) => baseline === 'hints');
    writeFileSync(path, htmlReport({ ...report, runs: runs.map((run) => ({ ...run, dialect })) }));
    const { page, complaints } = await open({}, path);
    expect((await page.locator('.moments').textContent())!).toContain(words);
    expect(complaints).toEqual([]);
    await page.context().close();
  });

  it('gives away all of its numbers', async () => {
    const { page } = await open();
    const [download] = await Promise.all([page.waitForEvent('download'), page.locator('footer a').click()]);
    expect(JSON.parse(readFileSync(await download.path(), 'utf8'))).toEqual(report);
    await page.context().close();
  });

  it('says so when something was lost, and takes no guest’s name for a script', async () => {
    const hostile = join(folder, 'hostile.html');
    const [first, ...rest] = report.runs;
    const name = '</script><script>document.title = "taken"</script><!--';
    const lost = { ...first!, guest: name, verified: { ...first!.verified, pagesDifferent: 1 } };
    writeFileSync(hostile, htmlReport({ ...report, runs: [lost, ...rest] }));
    const { page, complaints } = await open({}, hostile);
    expect(await page.locator('.verdict').textContent()).toContain(`1 of ${report.runs.length} migrations`);
    expect(await page.title()).not.toBe('taken');
    expect(complaints).toEqual([]);
    await page.context().close();
  });
});
