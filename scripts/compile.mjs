// Compiles a library from files that change one at a time.
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { fail, isStale, root } from './lib.mjs';

/**
 * Compiles each of `sources` into `folder` where it, or one of `headers`, has changed, then links `library`. Gives what
 * the compiler said of all of them, now or when it compiled them.
 */
export async function buildLibrary({ compiler, flags, linkFlags = [], folder, sources, headers, library }) {
  mkdirSync(folder, { recursive: true });
  const objectOf = (source) => join(folder, `${basename(source)}.o`);
  const waiting = sources.filter((source) => isStale(objectOf(source), [source, ...headers]));
  const work = async () => {
    for (let source = waiting.pop(); source; source = waiting.pop()) {
      const said = await run(compiler, [...flags, '-c', source, '-o', objectOf(source)]);
      writeFileSync(`${objectOf(source)}.log`, said);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  const objects = sources.map(objectOf);
  if (isStale(library, objects)) await run(compiler, ['-shared', '-o', library, ...objects, ...linkFlags]);
  return objects.map((object) => readFileSync(`${object}.log`, 'utf8')).join('\n');
}

function run(compiler, args) {
  return new Promise((resolve) => {
    const child = spawn(compiler, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output += text;
      });
    }
    child.on('error', (error) => fail(`${compiler} could not be started: ${error.message}`));
    child.on('close', (code) =>
      code === 0 ? resolve(output) : fail(`${output}\n${compiler} ${args.join(' ')} failed.`),
    );
  });
}
