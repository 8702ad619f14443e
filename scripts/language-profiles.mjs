// Writes src/rewards/ifeval/language-profiles.ts from the n-gram counts of Nakatani Shuyo's language-detection (Apache-2.0),
// the ones that Python's langdetect uses, as the npm package `langdetect` carries them. That package cannot be a dependency:
// it reads files, so it cannot run in a browser, and it brings 144 MB of Unicode tables along. Run:
//
//   npm pack langdetect@0.2.1 && tar xf langdetect-0.2.1.tgz
//   node scripts/language-profiles.mjs package && npx biome format --write src/rewards/ifeval/language-profiles.ts

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** How many n-grams of one, two and three characters a language keeps, the most frequent ones. All: 140,000; these: 95,000. */
const KEPT = [100, 1000, 1000];
/** Frequencies are kept as steps of 5 % below 1. */
const STEP = Math.log(1.05);

const folder = process.argv[2];
if (!folder) throw new Error('Expected the unpacked npm package langdetect as the argument but received nothing');

const profiles = readdirSync(join(folder, 'profiles'))
  .sort()
  .map((file) => {
    const { freq, n_words: totals } = JSON.parse(readFileSync(join(folder, 'profiles', file), 'utf8'));
    const parts = KEPT.map((kept, i) => {
      const grams = Object.entries(freq)
        .filter(([gram]) => [...gram].length === i + 1)
        .sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
        .slice(0, kept);
      const levels = grams.map(([, count]) => Math.round(-Math.log(count / totals[i]) / STEP));
      return { grams: grams.map(([gram]) => gram).join(''), runs: runs(levels) };
    });
    const language = file.replace('.json', '');
    const fields = [parts.map((part) => part.runs).join(';'), ...parts.map((part) => part.grams)];
    return `  ${JSON.stringify(language)}: ${JSON.stringify(fields)},`;
  });

const ideographs = Object.values(JSON.parse(readFileSync(join(folder, 'res', 'cjk.json'), 'utf8')));

writeFileSync(
  new URL('../src/rewards/ifeval/language-profiles.ts', import.meta.url),
  `// Written by scripts/language-profiles.mjs; see there for the origin. Data: Copyright 2010-2014 Cybozu Labs, Inc., Apache-2.0.

/**
 * A language: the runs, then the n-grams of one, two and three characters, most frequent first and without separators. A run
 * is "level*length": so many n-grams in a row have the frequency 1.05 to the power of minus level.
 */
export const PROFILES: Record<string, [runs: string, one: string, two: string, three: string]> = {
${profiles.join('\n')}
};

/** Ideographs that the profiles do not tell apart; the first of a group stands for all of it. */
export const IDEOGRAPHS = ${JSON.stringify(ideographs)};
`,
);

/** [70, 70, 72] as "70*2,2*1": each level is given as the difference to the one before. */
function runs(levels) {
  const out = [];
  let before = 0;
  for (const [i, level] of levels.entries()) {
    if (i > 0 && level === levels[i - 1]) out.at(-1)[1]++;
    else {
      out.push([level - before, 1]);
      before = level;
    }
  }
  return out.map(([level, length]) => (length === 1 ? `${level}` : `${level}*${length}`)).join(',');
}
