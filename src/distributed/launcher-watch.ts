import process from 'node:process';

/** Variable with the process id of the `grpo launch` that started this process. */
export const launcherVariable = 'GRPO_LAUNCHER';

/**
 * Calls `gone` when the launcher that started this process has ended without ending it: `grpo launch` holds a channel to
 * each of its processes. Returns how to stop watching. Without such a launcher nothing is watched.
 */
export function watchLauncher(gone: () => void): () => void {
  const launcher = process.env[launcherVariable];
  const ignore = () => {};
  const listener = () => {
    // Nobody reads what this process still says.
    process.stdout.on('error', ignore);
    process.stderr.on('error', ignore);
    gone();
  };
  if (
    launcher !== undefined &&
    (!process.connected || launcher !== String(process.ppid)) &&
    !isAlive(Number(launcher))
  ) {
    listener();
    return () => {};
  }
  // Another parent may have a channel of its own to this process.
  if (launcher !== String(process.ppid) || !process.channel) return () => {};
  process.once('disconnect', listener);
  // The listener alone would keep the process alive.
  process.channel.unref();
  return () => {
    process.off('disconnect', listener);
  };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
