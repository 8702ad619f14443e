// npm run bench [-- name [options]]: runs bench/<name>.ts, `kernels` unless another is named.
import '../scripts/wgsl.mjs';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('.', import.meta.url));
const [first, ...rest] = process.argv.slice(2);
const named = first !== undefined && !first.startsWith('-');
const name = named ? first : 'kernels';
if (!existsSync(`${folder}${name}.ts`)) {
  const names = readdirSync(folder).filter((file) => file.endsWith('.ts'));
  console.error(`No benchmark ${name}. There are: ${names.map((file) => file.slice(0, -3)).join(', ')}.`);
  process.exit(1);
}
const options = named ? rest : process.argv.slice(2);
const tsx = createRequire(import.meta.url).resolve('tsx/cli');
const { status } = spawnSync(process.execPath, [tsx, `${folder}${name}.ts`, ...options], { stdio: 'inherit' });
process.exit(status ?? 1);
