import { execFileSync } from 'node:child_process';

/** Network namespaces: what runs in one (`ip netns exec <name>`) sees another network than this machine. */
export const hosts = ['grpo-test-a', 'grpo-test-b'] as const;
export const addresses = ['10.199.0.1', '10.199.0.2'] as const;

/** Two hosts with a network between them, on this machine; null with the reason when it does not let us. */
export function makeHosts(): string | null {
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  removeHosts();
  try {
    for (const host of hosts) {
      ip('netns', 'add', host);
      ip('-n', host, 'link', 'set', 'lo', 'up');
    }
    ip('link', 'add', 'grpo-a', 'netns', hosts[0], 'type', 'veth', 'peer', 'name', 'grpo-b', 'netns', hosts[1]);
    hosts.forEach((host, i) => {
      const link = `grpo-${'ab'[i]}`;
      ip('-n', host, 'addr', 'add', `${addresses[i]}/24`, 'dev', link);
      ip('-n', host, 'link', 'set', link, 'up');
    });
    return null;
  } catch (error) {
    removeHosts();
    return (error as Error).message.split('\n')[0]!;
  }
}

export function removeHosts(): void {
  for (const host of hosts) {
    try {
      execFileSync('ip', ['netns', 'del', host], { stdio: 'ignore' });
    } catch {
      // It was not there.
    }
  }
}

/** Cuts the link at the second host, as a pulled cable does: nothing arrives, and nobody is told. */
export function cutLink(): void {
  execFileSync('ip', ['-n', hosts[1], 'link', 'set', 'grpo-b', 'down']);
}
