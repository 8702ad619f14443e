import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type FileSystem, installFileSystem } from './files.js';
import './node-workers.js';

export const nodeFileSystem: FileSystem = {
  exists: (path) =>
    access(path).then(
      () => true,
      () => false,
    ),
  list: (path) => readdir(path),
  size: async (path) => (await stat(path)).size,
  readText: (path) => readFile(path, 'utf8'),

  async readRange(path, offset, length) {
    const file = await open(path, 'r');
    try {
      const bytes = new Uint8Array(length);
      let filled = 0;
      while (filled < length) {
        const { bytesRead } = await file.read(bytes, filled, Math.min(length - filled, 2 ** 30), offset + filled);
        if (bytesRead === 0)
          throw new Error(`${path} ends at byte ${offset + filled}; wanted ${length} from ${offset}`);
        filled += bytesRead;
      }
      return bytes;
    } finally {
      await file.close();
    }
  },

  async sha256(path) {
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk);
    return hash.digest('hex');
  },

  async writeAtomic(path, content) {
    const temporary = `${path}.${randomBytes(4).toString('hex')}.tmp`;
    try {
      const file = await open(temporary, 'wx');
      try {
        if (typeof content === 'string' || content instanceof Uint8Array) await file.writeFile(content);
        else for await (const chunk of content) await file.writeFile(chunk);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    await syncFolder(dirname(path));
  },

  makeFolder: async (path) => {
    await mkdir(path, { recursive: true });
  },

  async rename(from, to) {
    await rename(from, to);
    await syncFolder(dirname(to));
  },

  remove: (path) => rm(path, { recursive: true, force: true }),
};

/** Makes the rename itself durable. Windows cannot open folders, and needs no such call. */
async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

installFileSystem(nodeFileSystem);
