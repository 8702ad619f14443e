import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { build, type PreviewServer, preview } from 'vite';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';

// Shaders are compiled and run on the processor here, beside other work.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const executablePath = '/usr/bin/chromium';
const installed = existsSync(executablePath);

test.runIf(process.env.CI)('continuous integration has Chromium', () => {
  expect(installed).toBe(true);
});

describe.skipIf(!installed)('the browser example, built from the exports of the package', () => {
  const configFile = fileURLToPath(new URL('../../examples/browser/vite.config.ts', import.meta.url));
  const outDir = mkdtempSync(join(tmpdir(), 'grpo-browser-'));
  const open: Browser[] = [];
  let server: PreviewServer;
  let url: string;
  beforeAll(async () => {
    await build({ configFile, logLevel: 'warn', build: { outDir } });
    server = await preview({ configFile, build: { outDir }, preview: { host: '127.0.0.1', port: 0 } });
    url = server.resolvedUrls!.local[0]!;
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((browser) => browser.close()));
  });
  afterAll(async () => {
    await server.close();
    rmSync(outDir, { recursive: true });
  });

  async function openPage(flags: string[], prepare = async (_page: Page) => {}): Promise<Page> {
    const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', ...flags] });
    open.push(browser);
    const page = await browser.newPage();
    page.setDefaultTimeout(240_000);
    await prepare(page);
    await page.goto(url);
    return page;
  }
  const withWebGpu = ['--use-webgpu-adapter=swiftshader', '--enable-unsafe-webgpu'];
  const stateOf = (page: Page) => page.locator('body').getAttribute('data-state');
  const stepOf = async (page: Page) => Number(await page.locator('#step').textContent());
  const reached = (page: Page, step: number) =>
    page.waitForFunction((wanted) => {
      const { state, step: at } = document.body.dataset;
      if (state === 'failed' || state === 'unsupported') throw new Error(String(document.body.textContent));
      return Number(at) >= wanted;
    }, step);

  test('training raises the reward, can be paused, resumed and reset, and leaves the page free', async () => {
    const page = await openPage(withWebGpu);
    await page.evaluate(() => {
      const gaps: number[] = [];
      let last = performance.now();
      setInterval(() => {
        gaps.push(performance.now() - last);
        last = performance.now();
      }, 20);
      Object.assign(globalThis, { gaps });
    });
    await page.click('#start');
    await reached(page, 12);

    await page.click('#pause');
    // The update under way is the last one.
    const steps: number[] = [];
    while (steps.length < 2 || (steps.at(-1) !== steps.at(-2) && steps.length < 10)) {
      steps.push(await stepOf(page));
      await page.waitForTimeout(5000);
    }
    expect(steps[0]).toBeLessThanOrEqual(steps.at(-1)!);
    expect(await stepOf(page)).toBe(steps.at(-1));
    expect(steps.at(-1)! - steps[0]!).toBeLessThanOrEqual(1);
    expect(await stateOf(page)).toBe('paused');

    await page.click('#start');
    await reached(page, 70);
    const [first, latest] = await Promise.all(
      ['#first-reward', '#latest-reward'].map(async (id) => Number(await page.locator(id).textContent())),
    );
    expect(first).toBeLessThan(0.8);
    expect(latest).toBeGreaterThan(first! + 0.3);
    const listed = await page.locator('#completions tr td:first-child').allTextContents();
    expect(listed.map(Number)).toEqual(listed.map(Number).sort((a, b) => b - a));
    expect(await page.locator('#reward-chart svg').getAttribute('aria-label')).toMatch(/in \d+ updates/);

    // By time, not by count: a page that freezes through each update ticks often in between, and has a short median gap.
    const gaps = await page.evaluate(() => (globalThis as unknown as { gaps: number[] }).gaps);
    const total = (list: number[]) => list.reduce((sum, gap) => sum + gap, 0);
    expect(gaps.length).toBeGreaterThan(100);
    expect(total(gaps.filter((gap) => gap > 100)) / total(gaps)).toBeLessThan(0.25);

    await page.click('#reset');
    expect(await stateOf(page)).toBe('ready');
    expect(await stepOf(page)).toBe(0);
    expect(await page.locator('#completions tr').count()).toBe(0);
    await page.click('#start');
    await reached(page, 1);
  });

  test('a browser without WebGPU says so, and what to do', async () => {
    const page = await openPage([], async (opened) => {
      await opened.addInitScript('delete Navigator.prototype.gpu;');
    });
    expect(await stateOf(page)).toBe('unsupported');
    expect(await page.locator('#notice').textContent()).toMatch(/no WebGPU[\s\S]*https or on localhost/);
    expect(await page.locator('#start').isDisabled()).toBe(true);
  });

  test('a browser with WebGPU and no adapter says so before anything is clicked', async () => {
    const page = await openPage(['--disable-gpu', '--disable-software-rasterizer', '--use-webgpu-adapter=none']);
    expect(await page.evaluate(() => 'gpu' in navigator)).toBe(true);
    await page.waitForFunction(() => document.body.dataset.state === 'unsupported');
    expect(await page.locator('#notice').isVisible()).toBe(true);
  });
});
