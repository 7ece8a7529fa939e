/**
 * state.ts - the one service this instance serves: its settings, its place in memory, its counters
 *
 * Everything lies in linear memory at fixed places, so a caller in any runtime reads it with a
 * DataView and nothing is allocated after `init()`. One instance of the module is one service.
 *
 *   0 .. 1 KiB     unused: a null pointer must not hit anything
 *   state          class State below
 *   counters       COUNTERS * u32, in the order of `Counter`
 *   then           batch slots, output list, emit arena, hold ring, body, inbox, flow table,
 *                  records, range nodes, reassembly, block links, blocks (see memory.ts)
 */
import { before } from "./wire/bytes";

/** Who speaks for the service. */
export const enum Role {
  /** Speaks to nobody: packets of both sides are dropped. */
  Silent = 0,
  /** Plays the client towards its own server and parks what that one says. */
  Standby = 1,
  /** Speaks to the clients. */
  Primary = 2,
}

/** When client-bound segments may leave (DESIGN 5.3). */
export const enum Commit {
  Strict = 0,
  Ack = 1,
}

/** What tells where a log can be cut (segment/cutting.ts). */
export const enum Hint {
  None = 0,
  Http,
}

/** What becomes of connections whose servers wrote different octets (P5). */
export const enum Divergence {
  Ignore = 0,
  Reset,
  Unprotect,
}

/** What happened how often; read by name through `counterName()`'s order in the runtime. */
export const enum Counter {
  Malformed = 0,
  BadChecksum,
  NotOurs,
  FromClients,
  ToClients,
  FromServer,
  ToServer,
  Held,
  Replicated,
  Duplicates,
  OutOfWindow,
  ChallengedReset,
  Unprotected,
  TableFull,
  OptionsRemoved,
  MssClamped,
  FeederTimeouts,
  FeederRefused,
  ParkedSegments,
  ParkedOverflow,
  AcksMade,
  AcksDropped,
  IcmpTranslated,
  Fragments,
  Opened,
  Closed,
  Refused,
  Relayed,
  PeerRecords,
  Swallowed,
  Strangers,
  EndsHeld,
  Diverged,
  Untold,
  OutOfOrder,
  Replayed,
  Cuts,
  CutOctets,
  CutsEnded,
  Count,
}

@unmanaged
export class State {
  role: u32 = 0;
  commitMode: u32 = 0;
  /** 4 or 6. */
  family: u32 = 0;
  /** Non-zero: connections that cannot be protected are refused, not passed. */
  refuseUnprotectable: u32 = 0;
  /** The service address, network byte order; IPv4 in the first word. */
  v0: u32 = 0;
  v1: u32 = 0;
  v2: u32 = 0;
  v3: u32 = 0;
  /** Largest MSS any replica can carry; 0 means no clamp. */
  mssMax: u32 = 0;
  capacity: u32 = 0;
  /** Octets of input kept for one connection. */
  logLimit: u32 = 0;
  /** The peer's own logLimit: what it will store before it reports anything. */
  peerLogLimit: u32 = 0;
  /** A standby is there, and what we send it counts. */
  standbyReady: u32 = 0;
  /** Since when input waits, or when the standby confirmed some of it last. */
  waitingSince: u32 = 0;
  /** Number of the message that is being built; starts at 1. */
  messageSeq: u32 = 0;
  /** Number of the last message that carried something output may depend on. */
  inputSeq: u32 = 0;
  /** Number of the last message that carried a new connection. */
  openSeq: u32 = 0;
  /** The last message the standby has applied. */
  committedSeq: u32 = 0;
  /** `Divergence`. */
  divergence: u32 = 0;
  /** How long one server's end waits for the other's, in milliseconds. */
  finWaitMs: u32 = 0;
  /** Milliseconds of the caller's monotonic clock, mod 2^32. */
  now: u32 = 0;
  lastTick: u32 = 0;
  /** Judgement of servers that stand still (segment/lag.ts). */
  lagBytes: u32 = 0;
  lagMs: u32 = 0;
  /** Next record to look at; 0 between two scans. */
  scanNext: u32 = 0;
  /** Time awake that this scan adds, and that the next one will. */
  scanMs: u32 = 0;
  awakeMs: u32 = 0;
  /** Our server was found hanging, and since when; until it moves again. */
  hung: u32 = 0;
  hungAt: u32 = 0;
  /** Primary: when our server was last seen to move on a connection that nobody follows. */
  aloneMovedAt: u32 = 0;
  /** Primary: since when the standby's server has written nothing, though ours has written more; else 0. */
  theirsOweAt: u32 = 0;
  /** When it went on after it had seemed to hang. */
  theirsBackAt: u32 = 0;
  /** Address of this memory's first octet in the host process, for the output list. */
  base: u64 = 0;
  // Places in memory.
  netSlots: usize = 0;
  appSlots: usize = 0;
  outList: usize = 0;
  emit: usize = 0;
  hold: usize = 0;
  body: usize = 0;
  inbox: usize = 0;
  inbox2: usize = 0;
  flows: usize = 0;
  flowMask: u32 = 0;
  records: usize = 0;
  comparisons: usize = 0;
  ranges: usize = 0;
  links: usize = 0;
  blocks: usize = 0;
  blockCount: u32 = 0;
  reassembly: usize = 0;
  /** Lengths of the packets in the batch slots: BATCH u32 for each side. */
  netLengths: usize = 0;
  appLengths: usize = 0;
  // Fill levels.
  outCount: u32 = 0;
  emitUsed: u32 = 0;
  /** Hold ring: next entry to release, next to write, octets in use, octets to free next pass. */
  holdHead: u32 = 0;
  holdTail: u32 = 0;
  holdUsed: u32 = 0;
  holdDone: u32 = 0;
  holdCount: u32 = 0;
  bodyUsed: u32 = 0;
  freeRange: u32 = 0;
  freeBlock: u32 = 0;
  blocksFree: u32 = 0;
  freeRecord: u32 = 0;
  recordsUsed: u32 = 0;
  /** Records ever used lie below this index. */
  highWater: u32 = 0;
  // Heads of the lists through the records (index + 1, 0 for none).
  dirtyHead: u32 = 0;
  dirtyTail: u32 = 0;
  pumpHead: u32 = 0;
  pumpTail: u32 = 0;
  timerHead: u32 = 0;
  timerTail: u32 = 0;
  disputedHead: u32 = 0;
  disputedTail: u32 = 0;
  generation: u32 = 0;
  /** Non-zero when the peer sent something that wants a prompt acknowledgement. */
  ackDue: u32 = 0;
  /** Next record `speak()` looks at. */
  speakNext: u32 = 0;
  /** The primary's clock minus ours, by the message that was quickest here: see apply.ts. */
  peerClock: u32 = 0;
  peerClockKnown: u32 = 0;
  /** Log mode: logs are kept from the first octet, so that another server can be played each connection. */
  logMode: u32 = 0;
  /** The same of a hot host: its server is fed while it stands by, too. */
  warm: u32 = 0;
  /** When a server was played all connections last. */
  replayedAt: u32 = 0;
  /** Log mode: a client is slowed when its log is full, instead of going on unprotected. */
  logHolds: u32 = 0;
  /** Segment of the log that the next message goes to, from 1 on; without a disk it moves as others are told again. */
  segment: u32 = 0;
  /** 1 while there may be connections that the standby has not been told of. */
  bringing: u32 = 0;
  /** Standby: 1 after it was told of a connection that began before it came, until `takeToldLate()`. */
  toldLate: u32 = 0;
  /** Hot mode: so much of what a client says is kept for a standby that comes later; 0 for nothing. */
  keepLimit: u32 = 0;
  /**
   * Telling again (segment/telling.ts): the record it has come to, 1 while that one is being told, its
   * generation, and the next octet of its log.
   */
  tellNext: u32 = 0;
  telling: u32 = 0;
  tellGeneration: u32 = 0;
  tellSeq: u32 = 0;
  /** `Hint`: what both streams of a connection are known to be. */
  hint: u32 = 0;
  /** A server is there to be fed; always so in hot mode. */
  feeding: u32 = 0;
  /** Next record `detach()` looks at. */
  detachNext: u32 = 0;
  /** See segment/probe.ts: what the last probe found, and the end that was newest then. */
  probeAnswer: u32 = 0;
  probeTail: u32 = 0;
  /** The last question: its number, the port it asks about, and its SYN's sequence number. */
  probeAsked: u32 = 0;
  probePort: u32 = 0;
  probeIss: u32 = 0;
  /** Packets of clients are handed to the peer instead of being processed (planned switch). */
  relaying: u32 = 0;
}

const STATE: usize = memory.data(512, 16);
const COUNTERS: usize = memory.data(256, 16);
const PORTS: usize = memory.data(8192, 16);

/** The state of this instance. */
export function state(): State {
  return changetype<State>(STATE);
}

/** Where the counters lie. */
export function countersAt(): usize {
  return COUNTERS;
}

/** Adds one to a counter; it wraps after 2^32. */
export function count(which: Counter): void {
  const at = COUNTERS + (<usize> which << 2);
  store<u32>(at, load<u32>(at) + 1);
}

/** Makes a TCP port one of the service's. */
export function servePort(port: u32): void {
  const at = PORTS + (port >>> 3);
  store<u8>(at, load<u8>(at) | <u8> (<u32> 1 << (port & 7)));
}

/** True when `port` (host byte order) is one of the service's. */
export function isServed(port: u32): bool {
  return (load<u8>(PORTS + (port >>> 3)) & (1 << (port & 7))) != 0;
}

/** Adds `octets` to a counter. */
export function countOctets(which: Counter, octets: u32): void {
  const at = COUNTERS + (<usize> which << 2);
  store<u32>(at, load<u32>(at) + octets);
}

/** True when nothing that waits for message `seq` has to wait any longer. */
export function isCommitted(seq: u32): bool {
  const s = state();
  return !s.standbyReady || !before(s.committedSeq, seq);
}

/** How often something was counted. */
export function counted(which: Counter): u32 {
  return load<u32>(COUNTERS + (<usize> which << 2));
}

/** The current message now carries something that output may depend on. */
export function noteInput(): void {
  const s = state();
  if (isCommitted(s.inputSeq)) s.waitingSince = s.now;
  s.inputSeq = s.messageSeq;
}

/** For how long the standby has confirmed nothing of what waits for that, milliseconds. */
export function unconfirmedMs(): u32 {
  const s = state();
  return isCommitted(s.inputSeq) ? 0 : s.now - s.waitingSince;
}
