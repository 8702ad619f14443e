// Puts the addon of this machine's platform where a published package keeps it: prebuilds/<platform>-<arch>.node.
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { fail, root, run } from './lib.mjs';

run(process.execPath, [join(root, 'scripts/setup.mjs')], 'The addon could not be built.');
const { addonPaths } = await import(pathToFileURL(join(root, 'dist/backend/loader.js')).href);
const paths = addonPaths({});
const built = paths.slice(0, -1).find((path) => existsSync(path));
if (!built) fail('There is no addon to copy.');
const target = paths.at(-1);
mkdirSync(join(root, 'prebuilds'), { recursive: true });
copyFileSync(built, target);
console.log(`${relative(root, built)} -> ${relative(root, target)}`);
