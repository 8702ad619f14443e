import { connect, type Socket } from 'node:net';

/** The address of this machine by which it reaches the server at `url`: by it the server reaches this machine. */
export function localAddressTowards(url: string, timeoutSeconds: number): Promise<string> {
  const { hostname, port, protocol } = new URL(url);
  const usual = protocol === 'https:' ? 443 : 80;
  const host = hostname.replace(/^\[|\]$/g, '');
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: Number(port) || usual, timeout: timeoutSeconds * 1000 }, () => {
      resolve(addressOf(socket));
      socket.destroy();
    });
    socket.on('error', reject);
    socket.on('timeout', () => socket.destroy(new Error(`${url}: no connection within ${timeoutSeconds} s`)));
  });
}

/** The address of this side; of an IPv4 address inside an IPv6 one, the former. */
export function addressOf(socket: Socket): string {
  return (socket.localAddress ?? '').replace(/^::ffff:/, '');
}
