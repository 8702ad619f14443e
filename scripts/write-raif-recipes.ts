/** Writes recipes/raif/*.yaml: npx tsx scripts/write-raif-recipes.ts */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { publishedRuns, renderRun } from '../src/recipes/raif/published-runs.js';

const folder = new URL('../recipes/raif/', import.meta.url);
await rm(folder, { recursive: true, force: true });
await mkdir(folder, { recursive: true });
for (const run of publishedRuns) await writeFile(new URL(`${run.name}.yaml`, folder), renderRun(run));
