import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { promisify } from 'node:util';

const root = new URL('../../', import.meta.url).pathname;

/** The numbers in each line that an example prints, run as its comment says. */
export async function runExample(path: string): Promise<number[][]> {
  const tsx = createRequire(import.meta.url).resolve('tsx/cli');
  const { stdout } = await promisify(execFile)(process.execPath, [tsx, path], { cwd: root });
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' ').map(Number));
}

export function meanReward(lines: readonly number[][]): number {
  return lines.reduce((sum, [, reward]) => sum + reward!, 0) / lines.length;
}
