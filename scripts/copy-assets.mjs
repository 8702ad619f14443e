// Copies what the compiler leaves behind: the parts of the report page, which are read as text.
import { cpSync } from 'node:fs';

const assets = /\.(html|css|js)$/;
const folder = new URL('../src/tracking/report/', import.meta.url);
const target = new URL('../dist/tracking/report/', import.meta.url);
cpSync(folder, target, {
  recursive: true,
  filter: (path) => path.endsWith('report/') || path.endsWith('report') || assets.test(path),
});
