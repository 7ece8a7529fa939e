/**
 * mod.ts - the packet core of Holdfast: everything per segment, and nothing else
 *
 * One instance is one service on one host. The module imports nothing, so it reaches no clock, no
 * socket and no randomness; memory is taken once in `init()` and never grows afterwards, so a
 * caller's views and addresses stay valid.
 *
 * One pass of a caller's loop:
 *
 *   begin(nowMs)                      the last pass's output memory may be reused
 *   apply(address, length)            each replication message body that has arrived
 *   run(netPackets, appPackets)       packets read into the batch slots; returns the output count
 *   write every {side, address, length} of the output list to that side's device
 *   bodyLength() > 0: send body as one message numbered messageSeq(), then sealed()
 *
 * Other calls: committed(seq) when the standby says so; standbyJoined / standbyLost; promote, speak,
 * demote for changes of role; describe for people.
 */
import {
  BATCH,
  BLOCK,
  BODY_HEADROOM,
  BODY_SIZE,
  EMIT_SIZE,
  FIN_WAIT_MS,
  HOLD_SIZE,
  INBOX2_SIZE,
  INBOX_SIZE,
  LAG_BYTES,
  LAG_MS,
  OUT_ENTRY,
  OUT_MAX,
  PACKET_MAX,
  SLOT_SIZE,
  TICK_MS,
} from "./limits";
import { count, Counter, countersAt, isCommitted, Role, servePort as serve, state } from "./state";
import { after, before } from "./wire/bytes";
import { sum as wireSum } from "./wire/checksum";
import {
  at,
  Connection,
  Flag,
  has,
  isTold,
  Leg,
  Phase,
  Reason,
  RECORD_SIZE,
} from "./flow/connection";
import { COMPARISON_SIZE } from "./flow/comparison";
import { find as findFlow } from "./flow/table";
import { release, startTimer, stopTimer, takePump } from "./flow/lifecycle";
import { format } from "./stream/chain";
import { Digest, digestValue, extendDigest, formatDigests, startDigest } from "./stream/digest";
import { Fact, Message, startMessage, takeMessage as takeOctets } from "./stream/http_message";
import { formatRanges, rangesSize } from "./stream/ranges";
import { CloseHow, flushDirty, writeClose } from "./records";
import { beginOutput, holdFree as freeHold, releaseHeld } from "./segment/output";
import { repeatReset } from "./segment/comparing";
import { endServer, onFeederTimeout, pump } from "./segment/feeder";
import { fromClient } from "./segment/client";
import { fromServer } from "./segment/server";
import { noteLife, scanLag } from "./segment/lag";
import { applyBody, applyNext as applyNextBody } from "./segment/apply";
import {
  forsake as forsakeAll,
  judgeEnds as judgeAllEnds,
  releaseEnds as releaseAllEnds,
  settleDisputes,
} from "./segment/ending";
import { probe as ask } from "./segment/probe";
import {
  endJoining as endAllJoining,
  joining as joiningOnes,
  retell as tellAll,
  startBringing,
  tellAgain as tell,
  unsettled as unsettledOnes,
} from "./segment/telling";
import {
  behind as countBehind,
  canPass as isFollowedWarm,
  confirmEnds as confirmHeldEnds,
  detach as detachAll,
  endsHeld as isEndHeld,
  replay as replayAll,
} from "./segment/recovery";
import { FINDING_SIZE, findingsAt, takeFindings as takeAllFindings } from "./judgement";
import { reassemblySize } from "./segment/reassembly";
import {
  demote as toStandby,
  forgetAll as forgetRecords,
  goOnAfter as goOn,
  loseNext as noNext,
  markAll as markRecords,
  noteNewPrimary as newPrimary,
  oldestTold as oldestSegment,
  promote as toPrimary,
  speak as speakSome,
  standbyJoined as joined,
  standbyLeft as left,
  standbyLost as lost,
} from "./segment/takeover";

const PAGE: u32 = 65536;

let next: usize = 0;

/** Takes `size` octets of the region that `init()` carves up. */
function carve(size: usize): usize {
  const place = next;
  next = (next + size + 63) & ~63;
  return place;
}

/**
 * Takes memory and lays it out. Call once, before anything else.
 *
 * @param memoryMiB all of the core's memory, in MiB: 48 to 4095
 * @param capacity connection records: 1 to 4194304
 * @param family of the service address, 4 or 6
 * @param chained 1 for a second inbox: more than two replicas
 * @returns octets left for input logs and parked flights, 0 when the memory is too small or not to
 * be had, or when called twice
 */
export function init(memoryMiB: u32, capacity: u32, family: u32, chained: u32): u32 {
  const s = state();
  if (s.capacity || capacity < 1 || capacity > 1 << 22 || memoryMiB < 48 || memoryMiB > 4095) {
    return 0;
  }
  if (family != 4 && family != 6) return 0;
  const wanted = memoryMiB << 4;
  if (<u32> memory.size() < wanted && memory.grow(<i32> (wanted - memory.size())) < 0) return 0;
  const end = <usize> wanted * PAGE;
  next = (__heap_base + 63) & ~63;
  let flows: u32 = 1024;
  while (flows < capacity << 1) flows <<= 1;
  s.netSlots = carve(BATCH * SLOT_SIZE);
  s.appSlots = carve(BATCH * SLOT_SIZE);
  s.netLengths = carve(BATCH << 2);
  s.appLengths = carve(BATCH << 2);
  s.outList = carve(OUT_MAX * OUT_ENTRY);
  s.emit = carve(EMIT_SIZE);
  s.hold = carve(HOLD_SIZE);
  s.body = carve(BODY_SIZE + BODY_HEADROOM) + BODY_HEADROOM;
  s.inbox = carve(INBOX_SIZE);
  s.inbox2 = chained ? carve(INBOX2_SIZE) : 0;
  s.flows = carve(<usize> flows << 3);
  s.records = carve(<usize> capacity * RECORD_SIZE);
  s.comparisons = carve(<usize> capacity * COMPARISON_SIZE);
  s.ranges = carve(rangesSize());
  s.reassembly = carve(reassemblySize());
  if (next + 16 * (BLOCK + 4) > end) return 0;
  s.blockCount = <u32> ((end - next - 128) / (BLOCK + 4));
  s.links = carve(<usize> s.blockCount << 2);
  s.blocks = carve(0);
  s.flowMask = flows - 1;
  s.capacity = capacity;
  s.family = family;
  s.messageSeq = 1;
  s.segment = 1;
  s.finWaitMs = FIN_WAIT_MS;
  s.feeding = 1;
  s.lagMs = LAG_MS;
  s.lagBytes = LAG_BYTES;
  format();
  formatRanges();
  formatDigests();
  return s.blockCount * BLOCK;
}

/** Settings of the service. `v0`..`v3`: its address as four words in memory order. */
export function configure(
  v0: u32,
  v1: u32,
  v2: u32,
  v3: u32,
  commitMode: u32,
  logLimit: u32,
  refuseUnprotectable: u32,
): void {
  const s = state();
  s.v0 = v0;
  s.v1 = v1;
  s.v2 = v2;
  s.v3 = v3;
  s.commitMode = commitMode;
  s.logLimit = logLimit;
  s.refuseUnprotectable = refuseUnprotectable;
}

/** How long one server's FIN or RST waits for the other's, in milliseconds. */
export function setJudgement(finWaitMs: u32): void {
  state().finWaitMs = finWaitMs;
}

/** What becomes of connections whose servers wrote different octets: `Divergence` in state.ts. */
export function setDivergence(policy: u32): void {
  state().divergence = policy;
}

/**
 * Log mode: logs are kept from the first octet, and a server is played them when `replay()` says so. With `holds` a
 * client whose log is full is slowed, else it goes on unprotected. With `warm` that goes for a standby, too; else
 * only a primary has a server.
 */
export function setLogMode(holds: u32, warm: u32): void {
  const s = state();
  s.logMode = 1;
  s.warm = warm;
  s.logHolds = holds;
  s.feeding = 0;
}

/** Hot mode: octets of a client's stream that are kept for a standby that comes later; 0 for none. */
export function setKeep(octets: u32): void {
  state().keepLimit = octets;
}

/** What both streams of each connection are known to be: `Hint` in state.ts. */
export function setHint(hint: u32): void {
  state().hint = hint;
}

/**
 * When a server hangs: it stands still for `lagMs` while the other replica's goes on, or is for so
 * long more than `lagBytes` behind. 0 ms: servers are not judged by that.
 */
export function setLag(lagBytes: u32, lagMs: u32): void {
  state().lagBytes = lagBytes;
  state().lagMs = lagMs;
}

/** 1 while our server hangs. */
export function hangs(): u32 {
  return state().hung;
}

/** Our server was started anew. */
export function noteAppStart(): void {
  noteLife();
}

/** Adds a port that is served. */
export function servePort(port: u32): void {
  serve(port & 0xffff);
}

/** Largest MSS that every replica can carry; 0 for no clamp. */
export function setMssMax(mss: u32): void {
  state().mssMax = mss;
}

/** Sets the role outright: at the start, or to fall silent (P6). */
export function setRole(role: u32): void {
  state().role = role;
}

/** Tells where this memory lies in the host process, for the output list; low and high 32 bits. */
export function setBase(low: u32, high: u32): void {
  state().base = (<u64> high << 32) | low;
}

/** Begins a pass; `nowMs` is monotonic milliseconds mod 2^32. */
export function begin(nowMs: u32): void {
  state().now = nowMs;
  beginOutput();
}

/** Applies a message body; 0, or 1 + the offset of what is not well formed. */
export function apply(body: usize, length: u32): u32 {
  return applyBody(body, length);
}

/** The same of what the next replica of the chain says. */
export function applyNext(body: usize, length: u32): u32 {
  return applyNextBody(body, length);
}

/** Runs the pass: packets, timers, feeder, progress, release. Returns the number of outputs. */
export function run(netPackets: u32, appPackets: u32): u32 {
  const s = state();
  for (let i: u32 = 0; i < netPackets && i < BATCH; i++) {
    const length = load<u32>(s.netLengths + (<usize> i << 2));
    if (length <= PACKET_MAX) fromClient(s.netSlots + <usize> i * SLOT_SIZE, length);
  }
  for (let i: u32 = 0; i < appPackets && i < BATCH; i++) {
    const length = load<u32>(s.appLengths + (<usize> i << 2));
    if (length <= PACKET_MAX) fromServer(s.appSlots + <usize> i * SLOT_SIZE, length);
  }
  return settle();
}

/** The part of a pass after the packets; also on its own, after `promote()` or `speak()`. */
export function settle(): u32 {
  const s = state();
  if (s.now - s.lastTick >= TICK_MS) tick();
  // Whoever asks again during this pump waits for the next pass.
  const last = s.pumpTail;
  if (last) {
    while (true) {
      const index = takePump();
      if (!index) break;
      pump(at(index - 1));
      if (index == last) break;
    }
  }
  flushDirty();
  releaseHeld();
  return s.outCount;
}

function tick(): void {
  const s = state();
  scanLag(s.now - s.lastTick);
  s.lastTick = s.now;
  settleDisputes();
  let index = s.timerHead;
  while (index) {
    const c = at(index - 1);
    index = c.nextTimer;
    if (before(s.now, c.timerAt)) continue;
    stopTimer(c);
    if (c.phase == Phase.Closed) {
      if (s.role == Role.Primary && repeatReset(c)) continue;
      endServer(c);
      if (s.role == Role.Primary && isTold(c)) writeClose(c, CloseHow.Normal, c.cliAck);
      release(c);
    } else if (has(c, Flag.Fed) && c.leg != Leg.SynAck) onFeederTimeout(c);
    else if (c.phase == Phase.Syn || c.phase == Phase.Half) {
      if (isTold(c)) writeClose(c, CloseHow.Dropped, 0);
      release(c);
    }
  }
}

/** True when outputs, pumps or speeches wait for another pass that needs no event. */
export function more(): u32 {
  const s = state();
  return s.pumpHead || (s.outCount >= OUT_MAX && s.holdCount) ? 1 : 0;
}

/** How many client-side packets may be read now, whatever they contain. */
export function netBudget(): u32 {
  return BATCH;
}

/** How many server-side packets may be read now, whatever they contain. */
export function appBudget(): u32 {
  const packets = freeHold() / SLOT_SIZE;
  return packets < BATCH ? packets : BATCH;
}

/** The standby has applied our messages up to `seq`. */
export function committed(seq: u32): void {
  const s = state();
  if (!after(seq, s.committedSeq) || !before(seq, s.messageSeq)) return;
  s.committedSeq = seq;
  s.waitingSince = s.now;
}

/** True when nothing that clients sent waits for its commit. */
export function isInputCommitted(): u32 {
  return isCommitted(state().inputSeq) ? 1 : 0;
}

/** 1 once after a standby was told of a connection that began before it came. */
export function takeToldLate(): u32 {
  const s = state();
  const isLate = s.toldLate;
  s.toldLate = 0;
  return isLate;
}

/** 1 once after the peer sent something whose commit others wait for. */
export function takeAckDue(): u32 {
  const s = state();
  const due = s.ackDue;
  s.ackDue = 0;
  return due;
}

/** True while some record's timer runs, so that passes must go on without packets. */
export function hasTimers(): u32 {
  return state().timerHead || state().disputedHead ? 1 : 0;
}

/** Octets of the message body that waits to be sent. */
export function bodyLength(): u32 {
  return state().bodyUsed;
}

/** The number the next message carries. */
export function messageSeq(): u32 {
  return state().messageSeq;
}

/** The body was taken over by the caller. */
export function sealed(): void {
  const s = state();
  s.bodyUsed = 0;
  s.messageSeq++;
}

/** Packets that wait for their commit. */
export function heldCount(): u32 {
  return state().holdCount;
}

/** What the peer stores for each connection: a standby needs it when it is handed the service. */
export function setPeerLogLimit(octets: u32): void {
  state().peerLogLimit = octets;
}

/** A standby that stores `peerLogLimit` octets for each connection is there. */
export function standbyJoined(peerLogLimit: u32): void {
  joined(peerLogLimit);
}

/** The standby is gone. */
export function standbyLost(): void {
  lost(Reason.StandbyLost);
}

/** Log mode: the standby is gone, and the disk goes on keeping what it is told. */
export function standbyLeft(): void {
  left();
}

/** Log mode: the disk that was our standby takes no more. */
export function storeLost(): void {
  lost(Reason.StoreLost);
}

/** Log mode: the segment of the disk's log that the next message, sent or applied, belongs to. */
export function setSegment(segment: u32): void {
  state().segment = segment;
}

/** Log mode: the oldest segment that a connection still needs; 2^32 - 1 for none. */
export function oldestTold(): u32 {
  return oldestSegment();
}

/** 1 while connections are to be told to a standby that came later, with `tellAgain(0, ...)`. */
export function bringing(): u32 {
  return state().bringing;
}

/** Standby: our server's process has ended, and its connections with it. 1 when another pass is needed. */
export function forsake(): u32 {
  return forsakeAll() ? 1 : 0;
}

/** The standby's server works again: what it has lost is to be told once more. */
export function bring(): void {
  const s = state();
  if (s.standbyReady && !s.bringing && !s.telling) startBringing();
}

/** Standby: connections that were told late, and that its server is yet to come to. */
export function unsettled(): u32 {
  return unsettledOnes();
}

/** Connections of which the standby has a part only. */
export function joining(): u32 {
  return joiningOnes();
}

/** Log mode: the disk has stored all that `tellAgain()` told. */
export function endJoining(): void {
  endAllJoining();
}

/**
 * Log mode: tells again of connections whose OPEN lies before segment `below`, with about `octets` more
 * in this message. 1 when more remain.
 */
export function tellAgain(below: u32, octets: u32): u32 {
  return tell(below, octets) ? 1 : 0;
}

/** Before `promote()` with the next replica of the chain: see takeover.ts. */
export function goOnAfter(sent: u32, confirmed: u32): void {
  goOn(sent, confirmed);
}

/** Standby: nobody follows us any more, or somebody who has nothing yet. */
export function loseNext(): void {
  noNext();
}

/** Standby: another one is primary, and goes on with what we were told. */
export function noteNewPrimary(): void {
  newPrimary();
}

/** All is to be told again: returns the segment for `tellAgain()`. */
export function retell(): u32 {
  return tellAll();
}

/** Standby to primary: see takeover.ts; `staying` as there. Returns the number of connections. */
export function promote(staying: u32): u32 {
  return toPrimary(staying);
}

/** Speaks for connections after the address is claimed; 1 when more remain. */
export function speak(): u32 {
  return speakSome() ? 1 : 0;
}

/** Primary to standby. */
export function demote(): void {
  toStandby();
}

/** Findings since the last call; they lie at `findings()` until the core runs again. */
export function takeFindings(): u32 {
  return takeAllFindings();
}

/** Our server is known to be dead: ends that it alone has said are its death (before `markAll()`). */
export function judgeEnds(): void {
  judgeAllEnds();
}

/** Nobody takes the service over: clients are told of the ends that were judged. */
export function releaseEnds(): void {
  releaseAllEnds();
}

/** Log mode: ends of our server wait until `confirmEnds()` or `detach()`. */
export function endsHeld(): u32 {
  return isEndHeld() ? 1 : 0;
}

/** Log mode: our server lives; ends that came before the last probe's answer are told. */
export function confirmEnds(): void {
  confirmHeldEnds();
}

/**
 * Log mode: asks with a SYN whether a server listens at `port`; `probeAnswer()` says later. With `again`
 * the last question is repeated.
 */
export function probe(port: u32, again: u32): void {
  ask(port, again != 0);
}

/** What the last probe found: 0 nothing yet, 1 somebody listens, 2 nobody. */
export function probeAnswer(): u32 {
  return state().probeAnswer;
}

/** Log mode: connections leave our server, which is dead, also on a standby. 1 when another pass is needed. */
export function detach(): u32 {
  return detachAll() ? 1 : 0;
}

/** Log mode: a server listens, and is played every connection that has none. */
export function replay(): void {
  replayAll();
}

/** Log mode: connections whose server is not yet where the client is. */
export function behind(): u32 {
  return countBehind();
}

/** Log mode: 1 when the standby could go on with every connection that we have, and its server at once with some. */
export function canPass(): u32 {
  return isFollowedWarm() ? 1 : 0;
}

/** Every protected connection's progress goes into the next messages. */
export function markAll(): void {
  markRecords();
}

/** True while progress or reports still wait to be written. */
export function dirty(): u32 {
  return state().dirtyHead ? 1 : 0;
}

/** Client packets that still arrive are handed to the peer (1) or dropped (0). */
export function relay(on: u32): void {
  state().relaying = on;
}

/** Drops records; `reset` ends the local server's connections. 1 when another pass is needed. */
export function forgetAll(reset: u32): u32 {
  return forgetRecords(reset != 0) ? 1 : 0;
}

/** Records in use. */
export function recordsUsed(): u32 {
  return state().recordsUsed;
}

/** Indices below this may be in use. */
export function highWater(): u32 {
  return state().highWater;
}

/** Free octets for input logs and parked flights. */
export function blockOctetsFree(): u32 {
  return state().blocksFree * BLOCK;
}

/** Address of a record, 0 when it is free or out of range: read it with the offsets below. */
export function recordAt(index: u32): usize {
  const s = state();
  if (index >= s.capacity || at(index).phase == Phase.Free) return 0;
  return changetype<usize>(at(index));
}

// Addresses and offsets, so that no caller repeats a number of ours.
/** Address of the counters, in the order of `Counter`. */
export function counters(): usize {
  return countersAt();
}
/** Where the findings lie, see judgement.ts. */
export function findings(): usize {
  return findingsAt();
}
/** Octets of a finding. */
export function findingSize(): u32 {
  return FINDING_SIZE;
}
/** Number of counters. */
export function counterCount(): u32 {
  return Counter.Count;
}
/** Address of the first client-side slot. */
export function netSlots(): usize {
  return state().netSlots;
}
/** Address of the first server-side slot. */
export function appSlots(): usize {
  return state().appSlots;
}
/** Octets from one slot to the next. */
export function slotSize(): u32 {
  return SLOT_SIZE;
}
/** Slots of one side. */
export function batch(): u32 {
  return BATCH;
}
/** Address of the client-side packets' lengths, u32 each. */
export function netLengths(): usize {
  return state().netLengths;
}
/** Address of the server-side packets' lengths, u32 each. */
export function appLengths(): usize {
  return state().appLengths;
}
/** Address of the output list, see segment/output.ts. */
export function outList(): usize {
  return state().outList;
}
/** Address of the message body. */
export function body(): usize {
  return state().body;
}
/** Address of an inbox, free for octets that the caller receives: 0, or 1 for a second peer. */
export function inbox(which: u32): usize {
  return which ? state().inbox2 : state().inbox;
}
/** Octets of it; 0 where there is none. */
export function inboxSize(which: u32): u32 {
  if (!which) return INBOX_SIZE;
  return state().inbox2 ? INBOX2_SIZE : 0;
}
/** Octets of an entry of the output list. */
export function outEntry(): u32 {
  return OUT_ENTRY;
}
/** Most entries of the output list. */
export function outMax(): u32 {
  return OUT_MAX;
}
/** Octets before `body()` that belong to the caller. */
export function bodyHeadroom(): u32 {
  return BODY_HEADROOM;
}
/** Largest body. */
export function bodySize(): u32 {
  return BODY_SIZE;
}
/** Octets of a record. */
export function recordSize(): u32 {
  return RECORD_SIZE;
}

/** Offset of a field of a record, by its place in `FIELDS` of the runtime; see connection.ts. */
export function fieldOffset(field: u32): u32 {
  switch (field) {
    case 0:
      return offsetof<Connection>("ports");
    case 1:
      return offsetof<Connection>("flags");
    case 2:
      return offsetof<Connection>("phase");
    case 3:
      return offsetof<Connection>("leg");
    case 4:
      return offsetof<Connection>("reason");
    case 5:
      return offsetof<Connection>("bytesIn");
    case 6:
      return offsetof<Connection>("bytesOut");
    case 7:
      return offsetof<Connection>("openedAt");
    case 8:
      return offsetof<Connection>("seenAt");
    case 9:
      return offsetof<Connection>("issDelta");
    case 10:
      return offsetof<Connection>("rcvNxt");
    case 11:
      return offsetof<Connection>("legAck");
    case 12:
      return offsetof<Connection>("legNxt");
    case 13:
      return offsetof<Connection>("legEdge");
    case 14:
      return offsetof<Connection>("cliAck");
    case 15:
      return offsetof<Connection>("sndNxt");
    case 16:
      return offsetof<Connection>("parkBase");
    case 17:
      return offsetof<Connection>("parkEnd");
    case 18:
      return offsetof<Connection>("ackShown");
    case 19:
      return offsetof<Connection>("edgeShown");
    case 20:
      return offsetof<Connection>("cliWnd");
    case 21:
      return offsetof<Connection>("irs");
    case 22:
      return offsetof<Connection>("iss");
    case 23:
      return offsetof<Connection>("tsDelta");
    case 24:
      return offsetof<Connection>("tsShown");
    case 25:
      return offsetof<Connection>("rangeCount");
    case 26:
      return offsetof<Connection>("sndShown");
    case 27:
      return offsetof<Connection>("peerEdge");
    case 28:
      return offsetof<Connection>("warm");
    case 29:
      return offsetof<Connection>("cold");
    default:
      return 0xffffffff;
  }
}

// The wire routines on their own, for tests and benchmarks.
/** RFC 1071 sum of `length` octets at `at`, folded, in memory order, not complemented. */
export function checksum(at: usize, length: u32, initial: u32): u32 {
  return wireSum(at, length, initial);
}
/** Extends the digest at `digest` (52 octets, 8-aligned) by `length` octets; `starts`: a new one. */
export function digest(digest: usize, at: usize, length: u32, starts: u32): u64 {
  const d = changetype<Digest>(digest);
  if (starts) startDigest(d);
  extendDigest(d, at, length);
  return digestValue(d);
}
/**
 * Takes an HTTP/1.1 message's next octets: see stream/http_message.ts. `message`: 32 octets, 8-aligned, zero for
 * a request's start; the number at its octet 12 says where it stands. Returns how many octets were taken.
 */
export function takeMessage(message: usize, at: usize, length: u32): u32 {
  return takeOctets(changetype<Message>(message), at, length);
}
/** Begins a response to a request whose method is HEAD (1) or not (0), at `message`. */
export function startResponse(message: usize, isHead: u32): void {
  startMessage(changetype<Message>(message), Fact.IsResponse | (isHead ? Fact.Head : 0));
}
/** Index + 1 of the record with this key (IPv4: one word), 0 for none. */
export function find(a0: u32, a1: u32, a2: u32, a3: u32, ports: u32): u32 {
  return findFlow(a0, a1, a2, a3, ports);
}
/** Counts an event that the caller saw (a packet the kernel refused). */
export function noteSwallowed(): void {
  count(Counter.Swallowed);
}
/** Starts a record's timer at once: for tests of time-outs. */
export function expire(index: u32): void {
  if (index < state().capacity && at(index).phase != Phase.Free) {
    startTimer(at(index), state().now);
  }
}
