import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import type { ControlLimits } from './control-limits.js';
import { type Identity, LineSocket, type PlaneMessage, protocol, type RankMessage } from './control-messages.js';
import type { DistributedFailure } from './errors.js';
import { exitCodes } from './exit-codes.js';
import { checkJoin, mismatches } from './join-rules.js';

interface Member {
  identity: Identity;
  socket: LineSocket<RankMessage, PlaneMessage>;
  activity: string | null;
  /** Heartbeats of the server since this rank was last heard. Ticks, so that time in which the server slept is none. */
  silentTicks: number;
  left: boolean;
}

/** Time in which other mistaken ranks, or the true cause of a failure, may still come in. Milliseconds. */
const settleTime = 1000;
/** Time in which ranks that come late are told why the run failed. Milliseconds. */
const lingerTime = 5000;

/**
 * The centre of the control plane, in the process of rank 0: gathers the ranks, keeps their keys and values, notices who
 * dies or hangs, and tells everyone. Fails once, for all.
 */
export class ControlServer {
  readonly #identity: Identity;
  readonly #limits: ControlLimits;
  readonly #server: Server;
  readonly #members = new Map<number, Member>();
  readonly #sockets = new Set<LineSocket<RankMessage, PlaneMessage>>();
  readonly #values = new Map<string, string>();
  readonly #waiting = new Map<string, (() => void)[]>();
  readonly #heartbeat: NodeJS.Timeout;
  readonly #joinTimeout: NodeJS.Timeout;
  #settling: NodeJS.Timeout | null = null;
  #mistakes: string[] = [];
  #mistaken = new Set<number>();
  #mistakeCode = '';
  #phase: 'gathering' | 'running' | 'failed' | 'over' = 'gathering';
  #failure: DistributedFailure | null = null;
  #told = 0;

  private constructor(identity: Identity, limits: ControlLimits) {
    this.#identity = identity;
    this.#limits = limits;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#heartbeat = setInterval(() => this.#tick(), limits.heartbeat * 1000);
    this.#joinTimeout = setTimeout(() => this.#giveUp(), limits.joinTimeout * 1000);
  }

  /** Rejects with the error of the system when the port cannot be had. */
  static async listen(host: string, port: number, identity: Identity, limits: ControlLimits): Promise<ControlServer> {
    const server = new ControlServer(identity, limits);
    try {
      server.#server.listen(port, host);
      await once(server.#server, 'listening');
      // A listening socket that fails later (descriptors run out) is noticed by the ranks that cannot join.
      server.#server.on('error', () => {});
      return server;
    } catch (error) {
      server.#stopTimers();
      throw error;
    }
  }

  /** Waits, for a while, until everyone has been told how the run ended, then frees the port. */
  async close(): Promise<void> {
    const complete = this.#members.size === this.#identity.worldSize && this.#mistakes.length === 0;
    const deadline =
      Date.now() +
      (this.#phase === 'failed' ? (complete ? settleTime : Math.min(lingerTime, this.#limits.joinTimeout * 1000)) : 0);
    const allTold = () => this.#sockets.size === 0 && (complete || this.#told >= this.#identity.worldSize);
    while (Date.now() < deadline && !allTold()) await new Promise((resolve) => setTimeout(resolve, 20));
    this.#stopTimers();
    for (const socket of this.#sockets) socket.destroy();
    if (this.#server.listening) {
      this.#server.close();
      await once(this.#server, 'close');
    }
  }

  #stopTimers(): void {
    clearInterval(this.#heartbeat);
    clearTimeout(this.#joinTimeout);
    if (this.#settling) clearTimeout(this.#settling);
    this.#settling = null;
  }

  #accept(socket: Socket): void {
    let member: Member | null = null;
    const lines = new LineSocket<RankMessage, PlaneMessage>(
      socket,
      (message) => {
        if (member) this.#receive(member, message);
        else if (message.type === 'join') member = this.#join(message, lines);
        else lines.destroy();
      },
      (reason) => {
        this.#sockets.delete(lines);
        if (member) this.#lost(member, reason);
      },
    );
    this.#sockets.add(lines);
    lines.send({ type: 'hello', protocol });
  }

  /** null: the process was told why it may not take part. */
  #join(identity: Identity, socket: LineSocket<RankMessage, PlaneMessage>): Member | null {
    const refusal = checkJoin(this.#identity, identity);
    if (refusal) return refuse(socket, refusal.failure, refusal.retry);
    if (this.#failure) {
      this.#tell(socket);
      return null;
    }
    const { rank } = identity;
    const known = this.#members.get(rank);
    if (this.#phase !== 'gathering') {
      const message = `Rank ${rank} (${socket.peer}) cannot join: all ${this.#identity.worldSize} ranks of this run have joined already`;
      return refuse(socket, rendezvousFailure('DUPLICATE_RANK', message, [rank]), false);
    }
    if (known) {
      const message = `Rank ${rank} has joined twice: from ${known.socket.peer} and from ${socket.peer}`;
      this.#mistake('DUPLICATE_RANK', message, rank);
    }
    for (const problem of mismatches(this.#identity, identity)) this.#mistake('MISMATCH', problem, rank);
    const member: Member = { identity, socket, activity: null, silentTicks: 0, left: false };
    if (!known) this.#members.set(rank, member);
    socket.trust();
    this.#welcomeAll();
    return member;
  }

  #welcomeAll(): void {
    if (this.#phase !== 'gathering' || this.#members.size < this.#identity.worldSize) return;
    if (this.#mistakes.length > 0) {
      this.#judge();
      return;
    }
    this.#phase = 'running';
    clearTimeout(this.#joinTimeout);
    this.#broadcast({ type: 'welcome' });
  }

  /** Something that nobody can go on with. Others may turn out to be mistaken too, and are named together. */
  #mistake(code: string, message: string, rank: number): void {
    this.#mistakes.push(message);
    this.#mistaken.add(rank);
    this.#mistakeCode ||= code;
    this.#settling ??= setTimeout(() => this.#judge(), settleTime);
  }

  #judge(): void {
    this.#fail(rendezvousFailure(this.#mistakeCode, this.#mistakes.join('\n'), [...this.#mistaken]));
  }

  #giveUp(): void {
    if (this.#phase !== 'gathering') return;
    const all = Array.from({ length: this.#identity.worldSize }, (_, rank) => rank);
    const missing = all.filter((rank) => !this.#members.has(rank));
    const message = `${listRanks(missing)} of ${all.length} did not join within ${this.#limits.joinTimeout} s`;
    this.#fail({ ...rendezvousFailure('TIMEOUT', message, missing), exitCode: exitCodes.retryable });
  }

  #receive(member: Member, message: RankMessage): void {
    member.silentTicks = 0;
    switch (message.type) {
      case 'beat':
        member.activity = message.activity;
        break;
      case 'set':
        this.#values.set(message.key, message.value);
        for (const answer of this.#waiting.get(message.key) ?? []) answer();
        this.#waiting.delete(message.key);
        break;
      case 'get': {
        const { id, key } = message;
        const answer = () => member.socket.send({ type: 'value', id, value: this.#values.get(key)! });
        if (this.#values.has(key)) answer();
        else this.#waiting.set(key, [...(this.#waiting.get(key) ?? []), answer]);
        break;
      }
      case 'fail':
        if (message.secondary) this.#suspect(message.failure);
        else this.#fail(message.failure);
        break;
      case 'bye':
        member.left = true;
        this.#finish();
        break;
      default:
        member.socket.destroy();
    }
  }

  /** Waits for the true cause: a connection that closes, or a rank that has been silent for longer than others. */
  #suspect(failure: DistributedFailure): void {
    if (this.#settling || this.#failure) return;
    this.#settling = setTimeout(() => {
      const silent = [...this.#members.values()].filter(({ silentTicks, left }) => silentTicks >= 2 && !left);
      if (silent.length > 0) this.#hung(silent);
      else this.#fail(failure);
    }, settleTime);
  }

  #lost(member: Member, reason: string): void {
    if (member.left || this.#failure || this.#phase === 'over') return;
    const { rank } = member.identity;
    const message = `Rank ${rank} (${member.socket.peer}) died: ${reason} without a goodbye${during(member.activity)}`;
    this.#fail(rankFailure('GRPO_RANK_DIED', message, [rank], member.activity));
  }

  #tick(): void {
    for (const member of this.#members.values()) member.silentTicks++;
    const limit = this.#limits.hungAfter / this.#limits.heartbeat;
    const hung = [...this.#members.values()].filter(({ silentTicks, left }) => silentTicks > limit && !left);
    if (hung.length > 0) this.#hung(hung);
    const activity = this.#members.get(0)?.activity ?? null;
    this.#broadcast({ type: 'beat', activity });
  }

  #hung(members: readonly Member[]): void {
    const ranks = members.map(({ identity }) => identity.rank);
    const { heartbeat } = this.#limits;
    const message = members
      .map(({ identity, socket, silentTicks, activity }) => {
        const seconds = Math.round(silentTicks * heartbeat * 10) / 10;
        return `Rank ${identity.rank} (${socket.peer}) hangs: no sign of life for ${seconds} s${during(activity)}`;
      })
      .join('\n');
    this.#fail(rankFailure('GRPO_RANK_HUNG', message, ranks, members[0]!.activity));
  }

  #fail(failure: DistributedFailure): void {
    if (this.#failure || this.#phase === 'over') return;
    this.#failure = failure;
    this.#phase = 'failed';
    this.#stopTimers();
    for (const socket of this.#sockets) this.#tell(socket);
  }

  #tell(socket: LineSocket<RankMessage, PlaneMessage>): void {
    this.#told++;
    socket.send({ type: 'abort', failure: this.#failure! });
    socket.end();
  }

  #finish(): void {
    if (this.#phase !== 'running' || [...this.#members.values()].some(({ left }) => !left)) return;
    this.#phase = 'over';
    this.#stopTimers();
    this.#broadcast({ type: 'bye' });
    for (const { socket } of this.#members.values()) socket.end();
  }

  #broadcast(message: PlaneMessage): void {
    for (const { socket } of this.#members.values()) socket.send(message);
  }
}

function refuse(socket: LineSocket<RankMessage, PlaneMessage>, failure: DistributedFailure, retry: boolean): null {
  socket.send({ type: 'refused', failure, retry });
  socket.end();
  return null;
}

export function during(activity: string | null): string {
  return activity ? `, while it was doing: ${activity}` : '';
}

export function rankFailure(
  code: string,
  message: string,
  ranks: number[],
  activity: string | null,
): DistributedFailure {
  return { code, message, ranks, activity, exitCode: exitCodes.retryable };
}

export function rendezvousFailure(code: string, message: string, ranks: number[]): DistributedFailure {
  return { code: `GRPO_RENDEZVOUS_${code}`, message, ranks, activity: null, exitCode: exitCodes.config };
}

function listRanks(ranks: readonly number[]): string {
  const shown = ranks.slice(0, 16).join(', ');
  return `${ranks.length === 1 ? 'Rank' : 'Ranks'} ${shown}${ranks.length > 16 ? ` and ${ranks.length - 16} more` : ''}`;
}
