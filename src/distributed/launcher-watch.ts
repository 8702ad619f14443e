import process from 'node:process';

/**
 * Calls `gone` when the launcher that started this process has ended without ending it: `grpo launch` holds a channel to
 * each of its processes. Returns how to stop watching. Without such a launcher nothing is watched.
 */
export function watchLauncher(gone: () => void): () => void {
  if (!process.channel || !process.connected) return () => {};
  const ignore = () => {};
  const listener = () => {
    // Nobody reads what this process still says.
    process.stdout.on('error', ignore);
    process.stderr.on('error', ignore);
    gone();
  };
  process.once('disconnect', listener);
  // The listener alone would keep the process alive.
  process.channel.unref();
  return () => {
    process.off('disconnect', listener);
  };
}
