/**
 * service.ts - what the loop keeps of one service: its core, its replica, its channel, its address
 *
 * Theory of operation
 * A service has a packet core of its own. Addresses of the core's batch slots and of its output list
 * are computed once, as 64-bit numbers, so that nothing is allocated for a packet.
 */
import type { Channel } from "../channel.ts";
import { type Core, loadCore } from "../core.ts";
import { addressOfBytes, type IpAddress } from "../io/address.ts";
import { AddressClaim } from "../io/address_claim.ts";
import { CardReader } from "../io/card_reader.ts";
import { addressOf } from "../io/libc.ts";
import { DiskLog } from "../log_store/disk_log.ts";
import { Card } from "../protocol/card.ts";
import { Chain } from "../protocol/chain.ts";
import { type HandOverReason, Judge } from "../protocol/judge.ts";
import { type Keeper, Keepers } from "../protocol/keepers.ts";
import { Replica } from "../protocol/replica.ts";
import type { Recoverer } from "../recoverer.ts";
import { readEpoch } from "./epoch_file.ts";
import type { LoopJudgement, LoopOptions, LoopServiceOptions, Takeover } from "./messages.ts";

/** Beats are heard only once keys are agreed on: a call, TLS, and three messages. */
const LISTEN_SEALED_MS = 1000;

/** A planned switch on its way. */
export interface Switch {
  /** The command that asked for it; null when the judge did. */
  id: number | null;
  /** What the new primary is told. */
  reason: "switch" | HandOverReason;
  /** Asking the arbiter, reading nothing until all is committed, or waiting for the peer. */
  phase: "asking" | "drain" | "handed";
  /** When the phase began in which nobody speaks. */
  sinceMs: number;
  /** When it is given up, milliseconds. */
  deadlineMs: number;
  /** Of the new primary, once the arbiter has agreed. */
  epoch: number;
}

/** One service in the loop. */
export class Service {
  /** From the configuration. */
  readonly options: LoopServiceOptions;
  /** Its packets. */
  readonly core: Core;
  /** Address of the core's memory. */
  readonly base: bigint;
  /** Who is primary. */
  readonly replica: Replica;
  /** Whose server has failed. */
  readonly judge: Judge;
  /** Our spawned server runs, or somebody else takes care of it. */
  appRuns = true;
  /** Its health command found it hanging, and has not found it healthy since; hot mode. */
  isUnhealthy = false;
  /** Standby: connections of a server whose process has ended are still to be given up. */
  isForsaken = false;
  /** The standby says that it could take over, its server included. */
  peerReady = false;
  /** Its address on the network. */
  readonly claim: AddressClaim;
  /** Whether the clients' network is heard here. */
  readonly card = new Card();
  /** Looks at its interface; null without a peer, who alone could do better. */
  readonly cardReader: CardReader | null;
  /**
   * It had a carrier at the last look. Without one nothing is written: our kernel would keep it while
   * it asks for the next hop, and say it when the cable is back and another one is primary (P3).
   */
  hasCarrier = true;
  /** When it is looked at again, milliseconds. */
  nextLookMs = 0;
  /** Where whole logs are kept. */
  recoverer: Recoverer | null = null;
  /** The log on disk; null for none. */
  readonly disk: DiskLog | null;
  /** Primary: who must have what we tell before clients hear of it. */
  readonly #keepers = new Keepers();
  /** Our server was found hanging at the last look. */
  appHung = false;
  /** To the other replica; null while there is none. */
  channel: Channel | null = null;
  /** Standby: to the one that follows us; null while there is none. */
  next: { channel: Channel; session: number; logLimit: number } | null = null;
  /** Who follows further down: than us, or than our standby. */
  readonly chain = new Chain();
  /** Primary: whether those further down are ready, and ever were, as their beats say. */
  readonly further = new Map<string, { isReady: boolean; wasReady: boolean }>();
  /** Standby further down: its server is yet to come to where some connections are; so long it confirms nothing. */
  isBehind = false;
  /** When the primary is told next what is confirmed further down, milliseconds. */
  nextFurtherMs = 0;
  /** Standby: number of the last message that the channel brought. */
  lastSeq = 0;
  /**
   * Primary: connections whose OPEN lies before this segment are being told again, to who has come further down; 0
   * for none.
   */
  tellBelow = 0;
  /** All of that was told, but for the last progress. */
  isTold = false;
  /** A switch that is under way. */
  switching: Switch | null = null;
  /** One that waits until the standby has all connections whole; at `untilMs` it is given up, or begins. */
  wantedSwitch: { id: number; untilMs: number; isLeaving: boolean } | null = null;
  /** When this node became primary last. */
  lastTakeover: Takeover | null = null;
  /** When a channel is tried again, milliseconds. */
  nextConnectMs = 0;
  /** Which link the next attempt uses. */
  attempt = 0;
  /** When the address is announced again, milliseconds, ascending. */
  announceAtMs: number[] = [];
  /** Handed over: until when what arrives here is passed on, milliseconds. */
  relayUntilMs: number | null = null;
  /** Primary, but not sure to be the only one: nothing is read from the devices. */
  isMute = false;
  /** What was judged lately, oldest first. */
  readonly judgements: LoopJudgement[] = [];
  /** A look for somebody who answers for the address. */
  probe: { ticket: number; untilMs: number; nextMs: number } | null = null;
  /** When an alarm about the address may be given again, milliseconds. */
  nextAlarmMs = 0;
  /** The clients' device may have packets. */
  netReady = false;
  /** The server's may. */
  appReady = false;
  /** Addresses of the batch slots for clients' packets. */
  readonly netSlots: bigint[];
  /** The same for the server's. */
  readonly appSlots: bigint[];
  /** Addresses of the entries of the output list, each of which starts with an iovec. */
  readonly vectors: bigint[];
  /** Where the core reads the lengths of clients' packets, an offset in its memory. */
  readonly netLengthsAt: number;
  /** The same for the server's. */
  readonly appLengthsAt: number;
  /** Where the output list begins, an offset too. */
  readonly outListAt: number;
  /** Octets of an entry. */
  readonly outEntry: number;
  /** Octets of a batch slot. */
  readonly slotSize: number;

  /** Loads its core; throws when the host cannot hold it. */
  constructor(
    options: LoopServiceOptions,
    { loop, token, nowMs }: { loop: LoopOptions; token: string; nowMs: number },
  ) {
    this.options = options;
    this.core = loadCore({
      memoryMiB: options.memoryMiB,
      capacity: options.capacity,
      address: options.addressBytes,
      ports: options.ports,
      commit: options.commit,
      divergence: options.divergence,
      logLimit: options.logLimit,
      refuseUnprotectable: options.refuseUnprotectable,
      chained: loop.peers.length > 1,
    });
    const { wasm } = this.core;
    this.base = addressOf(this.core.bytes);
    // Touched now, so that no pass waits for the kernel to find and clear pages.
    const last = loop.peers.length > 1 ? 1 : 0;
    this.core.bytes.fill(0, wasm.netSlots(), wasm.inbox(last) + wasm.inboxSize(last));
    wasm.setBase(Number(this.base & 0xffffffffn), Number(this.base >> 32n));
    const slots = (first: number) =>
      Array.from(
        { length: wasm.batch() },
        (_, i) => this.base + BigInt(first + i * wasm.slotSize()),
      );
    this.netSlots = slots(wasm.netSlots());
    this.appSlots = slots(wasm.appSlots());
    this.outListAt = wasm.outList();
    this.outEntry = wasm.outEntry();
    this.vectors = Array.from(
      { length: wasm.outMax() },
      (_, i) => this.base + BigInt(this.outListAt + i * this.outEntry),
    );
    this.netLengthsAt = wasm.netLengths();
    this.appLengthsAt = wasm.appLengths();
    this.slotSize = wasm.slotSize();
    this.replica = new Replica({
      service: options.name,
      node: loop.node,
      peers: loop.peers.map(({ name }) => name),
      prefer: options.prefer,
      heartbeatMs: loop.heartbeatMs,
      detect: loop.detect,
      epoch: readEpoch(options.epochFile),
      token,
      arbiter: loop.arbiter,
      listenMs: loop.seal === null ? undefined : LISTEN_SEALED_MS,
      copies: options.copies,
    }, nowMs);
    const disk = options.log?.disk ?? null;
    this.disk = disk === null ? null : new DiskLog(this.core, disk, options.logLimit);
    this.judge = new Judge(loop.node);
    wasm.setJudgement(options.finWaitMs);
    if (options.log !== null) wasm.setLogMode(options.log.holds ? 1 : 0, this.isWarm ? 1 : 0);
    if (options.log === null && loop.peers.length > 0) wasm.setKeep(options.rejoinLimit);
    wasm.setHint(options.hint === "http/1.1" ? 1 : 0);
    // In log mode there is one server, and nothing to compare it with.
    wasm.setLag(options.lagBytes, options.log === null ? options.lagTimeMs : 0);
    wasm.setMssMax(this.mssFor(options.mtu));
    this.claim = new AddressClaim({
      address: options.address,
      tunName: options.tunName,
      interfaceName: options.interfaceName,
      // Answered from this loop, so that a stopped daemon no longer draws traffic (P6).
      answers: "caller",
    });
    this.claim.prepare();
    this.cardReader = loop.peers.length === 0
      ? null
      : new CardReader(options.interfaceName, options.addressBytes.length === 4 ? 4 : 6);
  }

  /** We have become primary: of the keepers, these go on, who have all messages before number `next`. */
  startKeeping(keepers: Keeper[], next: number): void {
    this.#keepers.clear();
    for (const keeper of keepers) this.#keepers.add(keeper, next);
  }

  /** We are primary no more. */
  stopKeeping(): void {
    this.#keepers.clear();
  }

  /** One more keeps what we tell from now on, `logLimit` octets of each connection. */
  addKeeper(keeper: Keeper, logLimit: number): void {
    const { wasm } = this.core;
    // A disk that comes second is told of connections that are protected already.
    if (keeper === "standby" || this.#keepers.isEmpty) wasm.standbyJoined(logLimit);
    this.#keepers.add(keeper, wasm.messageSeq());
  }

  /** One is gone: what waited for it alone may leave. */
  dropKeeper(keeper: Keeper): void {
    const { wasm } = this.core;
    this.#keepers.remove(keeper);
    if (this.#keepers.isEmpty) {
      if (keeper === "disk") wasm.storeLost();
      else wasm.standbyLost();
      return;
    }
    if (keeper === "standby") wasm.standbyLeft();
    this.#commit();
  }

  /** A keeper has all messages up to `seq`. */
  noteKept(keeper: Keeper, seq: number): void {
    this.#keepers.confirm(keeper, seq, this.core.wasm.messageSeq());
    this.#commit();
  }

  #commit(): void {
    const { committed } = this.#keepers;
    if (committed !== null) this.core.wasm.committed(committed);
  }

  /** Whole logs are kept here, so that another server can be played each connection. */
  get keepsLogs(): boolean {
    return this.options.log !== null;
  }

  /** The same, and our server is fed while we stand by, too. */
  get isWarm(): boolean {
    return this.options.log?.isWarm ?? false;
  }

  /** Nothing is known against our server. */
  get appWorks(): boolean {
    return this.appRuns && !this.isUnhealthy && this.core.wasm.hangs() === 0;
  }

  /** No more should be taken from clients: what they said waits to be told to others. */
  get isCongested(): boolean {
    return (this.channel?.isCongested ?? false) || this.isDiskSlow;
  }

  /** Who follows us is far behind: nothing more should be taken from whom we follow. */
  get isNextCongested(): boolean {
    return this.next?.channel.isCongested ?? false;
  }

  /** The disk is far behind: nothing should be taken from anybody. */
  get isDiskSlow(): boolean {
    return this.disk?.isCongested ?? false;
  }

  /** We serve, or could: a standby that does not hear the clients' network could not. */
  get isReady(): boolean {
    const { ready, role } = this.replica;
    if (this.replica.isFurther && this.isBehind) return false;
    return ready && this.appWorks && (role !== "standby" || this.card.state === "works");
  }

  /** Who answers if our card works: the gateway, or the client on the link that was heard last. */
  neighbour(nowMs: number): IpAddress | null {
    const { cardReader: reader, core: { wasm, bytes, view, offsets } } = this;
    if (reader === null || reader.gateway !== null) return reader?.gateway ?? null;
    let idleMs = Infinity;
    let found: Uint8Array | null = null;
    for (let i = wasm.highWater() - 1; i >= 0; i--) {
      const at = wasm.recordAt(i);
      if (at === 0) continue;
      const itsMs = ((nowMs >>> 0) - view.getUint32(at + offsets.seenAt, true)) >>> 0;
      const octets = bytes.subarray(at, at + this.options.addressBytes.length);
      if (itsMs >= idleMs || !reader.isNear(octets)) continue;
      idleMs = itsMs;
      found = octets;
    }
    return found === null ? null : addressOfBytes(found.slice());
  }

  /** Largest MSS for a path of `mtu` octets. */
  mssFor(mtu: number): number {
    return mtu - (this.options.addressBytes.length === 4 ? 40 : 60);
  }

  /** Gives the address and the channel back. */
  close(): void {
    this.channel?.close();
    this.channel = null;
    this.next?.channel.close();
    this.next = null;
    this.claim.close();
    this.cardReader?.close();
  }
}
