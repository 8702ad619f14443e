import type { Socket } from 'node:net';
import type { DistributedFailure } from './errors.js';

/** What a process says of itself when it joins. All processes of a run must agree but on the rank. */
export interface Identity {
  runId: string;
  generation: number;
  rank: number;
  worldSize: number;
  /** Of this package. */
  version: string;
  configHash: string;
  /** Options of the configuration as text, to name those that differ. */
  config: Record<string, string>;
}

/** From a rank to the control plane. */
export type RankMessage =
  | ({ type: 'join' } & Identity)
  | { type: 'beat'; activity: string | null }
  | { type: 'set'; key: string; value: string }
  | { type: 'get'; id: number; key: string }
  /** `secondary`: the error may only be the echo of another rank's death, which will be noticed in a moment. */
  | { type: 'fail'; failure: DistributedFailure; secondary: boolean }
  | { type: 'bye' };

/** From the control plane to a rank. */
export type PlaneMessage =
  | { type: 'hello'; protocol: number }
  | { type: 'welcome' }
  /** Only this process is turned away. `retry`: what answers here will soon make way for the right one. */
  | { type: 'refused'; failure: DistributedFailure; retry: boolean }
  /** `activity` is what rank 0 is doing. */
  | { type: 'beat'; activity: string | null }
  | { type: 'value'; id: number; value: string }
  | { type: 'abort'; failure: DistributedFailure }
  /** All ranks have said goodbye. */
  | { type: 'bye' };

export const protocol = 1;

const longestLine = 64 * 2 ** 20;

/** Messages over a socket, one line of JSON each. */
export class LineSocket<Incoming, Outgoing> {
  readonly #socket: Socket;
  #peer = '';
  #rest: string[] = [];
  #restLength = 0;
  #limit = 2 ** 16;

  /** `receive` is called for each message; `close` once, with the reason, when no more can come. */
  constructor(socket: Socket, receive: (message: Incoming) => void, close: (reason: string) => void) {
    this.#socket = socket;
    let reason = 'the connection was closed';
    const remember = () => {
      this.#peer = `${socket.remoteAddress}:${socket.remotePort}`;
    };
    if (socket.connecting) socket.once('connect', remember);
    else remember();
    socket.setEncoding('utf8');
    socket.setNoDelay(true);
    socket.on('data', (text: string) => {
      try {
        for (const line of this.#lines(text)) receive(JSON.parse(line));
      } catch {
        reason = 'what came is not a message of a control plane';
        socket.destroy();
      }
    });
    socket.on('error', (error) => {
      reason = error.message;
    });
    socket.on('close', () => close(reason));
  }

  /** `host:port` of the other side. */
  get peer(): string {
    return this.#peer;
  }

  /** Address of this side. */
  get ownAddress(): string | undefined {
    return this.#socket.localAddress;
  }

  /** From now on the other side is known, and may send long messages. */
  trust(): void {
    this.#limit = longestLine;
  }

  send(message: Outgoing): void {
    if (!this.#socket.destroyed && this.#socket.writable) this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  /** Sends what waits, then closes. */
  end(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  *#lines(text: string): Generator<string> {
    let start = 0;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', start)) {
      yield this.#rest.join('') + text.slice(start, end);
      this.#rest = [];
      this.#restLength = 0;
      start = end + 1;
    }
    if (start === text.length) return;
    this.#rest.push(text.slice(start));
    this.#restLength += text.length - start;
    if (this.#restLength > this.#limit) throw new RangeError('the line is too long');
  }
}
