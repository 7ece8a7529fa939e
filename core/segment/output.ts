/**
 * output.ts - what leaves: the output list, the segments we make, and what has to wait
 *
 * A pass fills the output list; the caller writes each packet to that side's device, and the memory
 * behind it stays untouched until the next pass begins. An entry starts as a `struct iovec` of the
 * host (the memory's base address is added), so that writev(2) can be pointed right at it:
 *
 *   entry        | address u64 | length u64 | side u32 | address in this memory u32 | 8 unused |
 *
 * Output commit: a client-bound packet leaves at once when everything it may depend on is committed;
 * else it is copied to the hold ring with the number of the message it waits for. That number never
 * goes down, so the ring is released strictly in order.
 *
 *   hold ring    | length | message | packet, padded to 8 | ...     length 0: go on at the start
 */
import { EMIT_SIZE, HOLD_SIZE, OUT_ENTRY, OUT_MAX } from "../limits";
import { Commit, count, Counter, isCommitted, Role, State, state } from "../state";
import { after, before, earlier, later, put16, put32 } from "../wire/bytes";
import { ACK, finish, ipv4Checksum, PSH, RST, SYN, View, VNET } from "../wire/packet";
import { at, Connection, Flag, has, isBeingTold, Reason } from "../flow/connection";
import { checkClosed } from "../flow/lifecycle";

/** Side of an output entry. */
export const NET: u32 = 0;
export const APP: u32 = 1;

const HOLD_HEAD: u32 = 8;
/** Octets that one step of a window field is worth, at most (RFC 7323 section 2.3). */
const WINDOW_GRAIN: u32 = 1 << 14;

/** Room that one segment of ours may need: headers, options and a super-segment. */
const SEGMENT_ROOM: u32 = 65536;

/** Appends a packet to the output list; past its end it is dropped, as a full device queue would. */
export function out(side: u32, packet: usize, length: u32): void {
  const s = state();
  if (s.outCount >= OUT_MAX) {
    count(Counter.Swallowed);
    return;
  }
  const entry = s.outList + <usize> s.outCount * OUT_ENTRY;
  store<u64>(entry, s.base + <u64> packet);
  store<u64>(entry, length, 8);
  store<u32>(entry, side, 16);
  store<u32>(entry, <u32> packet, 20);
  s.outCount++;
}

/** True when one more segment of ours fits into this pass. */
export function hasRoom(): bool {
  const s = state();
  return s.outCount + 128 < OUT_MAX && s.emitUsed + SEGMENT_ROOM <= EMIT_SIZE;
}

/** Starts a pass: the memory of the last pass's output may be used again. */
export function beginOutput(): void {
  const s = state();
  s.outCount = 0;
  s.emitUsed = 0;
  s.holdUsed -= s.holdDone;
  s.holdDone = 0;
}

function pad(length: u32): u32 {
  return (length + HOLD_HEAD + 7) & ~7;
}

/** Octets the hold ring can surely still take. */
export function holdFree(): u32 {
  const s = state();
  // The end of the ring may be skipped once, so count one packet less.
  const free = HOLD_SIZE - s.holdUsed;
  return free > SEGMENT_ROOM + HOLD_HEAD ? free - SEGMENT_ROOM - HOLD_HEAD : 0;
}

function holdBack(packet: usize, length: u32, seq: u32): void {
  const s = state();
  const need = pad(length);
  if (need > holdFree()) {
    // The caller stops reading the server's side long before; TCP repeats what is lost here.
    count(Counter.Swallowed);
    return;
  }
  if (s.holdTail + need > HOLD_SIZE) {
    if (s.holdTail < HOLD_SIZE) store<u32>(s.hold + s.holdTail, 0);
    s.holdUsed += HOLD_SIZE - s.holdTail;
    s.holdTail = 0;
  }
  const entry = s.hold + s.holdTail;
  store<u32>(entry, length);
  store<u32>(entry, seq, 4);
  memory.copy(entry + HOLD_HEAD, packet, length);
  s.holdTail += need;
  s.holdUsed += need;
  s.holdCount++;
  count(Counter.Held);
}

/** Puts what is committed by now on the output list, in order. */
export function releaseHeld(): void {
  const s = state();
  while (s.holdCount && s.outCount < OUT_MAX) {
    if (s.holdHead >= HOLD_SIZE || load<u32>(s.hold + s.holdHead) == 0) {
      s.holdDone += HOLD_SIZE - s.holdHead;
      s.holdHead = 0;
      continue;
    }
    const entry = s.hold + s.holdHead;
    if (!isCommitted(load<u32>(entry, 4))) return;
    const length = load<u32>(entry);
    out(NET, entry + HOLD_HEAD, length);
    count(Counter.ToClients);
    const used = pad(length);
    s.holdHead += used;
    s.holdDone += used;
    s.holdCount--;
  }
}

/** Sends a packet to the client's side, now or when what it depends on is committed. */
export function toClient(packet: usize, length: u32): void {
  const s = state();
  const seq = s.commitMode == Commit.Strict ? s.inputSeq : s.openSeq;
  if (s.holdCount == 0 && isCommitted(seq)) {
    out(NET, packet, length);
    count(Counter.ToClients);
  } else holdBack(packet, length, seq);
}

/** Sends a packet to the local server's side. */
export function toServer(packet: usize, length: u32): void {
  out(APP, packet, length);
  count(Counter.ToServer);
}

/**
 * Makes a segment in the emit arena.
 *
 * @returns its address; headers are complete but for `complete()`, payload space follows them.
 */
export function make(
  c: Connection,
  side: u32,
  flags: u32,
  seq: u32,
  ack: u32,
  window: u32,
  optionLength: u32,
): usize {
  const s = state();
  const packet = s.emit + s.emitUsed;
  const ip = packet + VNET;
  const v4 = s.family == 4;
  const ipHeader: u32 = v4 ? 20 : 40;
  const tcp = ip + ipHeader;
  if (v4) {
    store<u32>(ip, 0x45); // version 4, 5 words, DSCP 0; length follows in complete()
    store<u32>(ip, 0x00400000, 4); // identification 0, DF
    store<u32>(ip, 0x00000640, 8); // TTL 64, TCP, checksum follows
    const source = side == NET ? s.v0 : c.c0;
    const destination = side == NET ? c.c0 : s.v0;
    store<u32>(ip, source, 12);
    store<u32>(ip, destination, 16);
  } else {
    store<u32>(ip, 0x60); // version 6
    store<u32>(ip, 0x40060000, 4); // length follows; TCP, hop limit 64
    const service = changetype<usize>(s) + offsetof<State>("v0");
    const client = changetype<usize>(c);
    memory.copy(ip + 8, side == NET ? service : client, 16);
    memory.copy(ip + 24, side == NET ? client : service, 16);
  }
  const clientPort = c.ports & 0xffff;
  const servicePort = c.ports >>> 16;
  put16(tcp, side == NET ? servicePort : clientPort);
  put16(tcp + 2, side == NET ? clientPort : servicePort);
  put32(tcp + 4, seq);
  put32(tcp + 8, ack);
  store<u8>(tcp, <u8> (((20 + optionLength) >>> 2) << 4), 12);
  store<u8>(tcp, <u8> flags, 13);
  put16(tcp + 14, window);
  store<u32>(tcp, 0, 16);
  return packet;
}

/** Address of the TCP header of a segment made by `make()`. */
export function tcpOf(packet: usize): usize {
  return packet + VNET + (state().family == 4 ? 20 : 40);
}

/** Completes lengths and checksums of a made segment and returns its whole length. */
export function complete(packet: usize, payloadLength: u32, gsoSize: u32): u32 {
  const s = state();
  const ip = packet + VNET;
  const tcp = tcpOf(packet);
  const headerLength = (<u32> load<u8>(tcp, 12) >>> 4) << 2;
  const tcpLength = headerLength + payloadLength;
  const ipLength = <u32> (tcp - ip) + tcpLength;
  if (s.family == 4) {
    put16(ip + 2, ipLength);
    store<u16>(ip, <u16> ipv4Checksum(ip), 10);
  } else put16(ip + 4, tcpLength);
  finish(packet, ip, tcp, s.family, tcpLength, payloadLength > gsoSize ? gsoSize : 0);
  const length = VNET + ipLength;
  s.emitUsed += (length + 15) & ~15;
  return length;
}

/** Writes NOP NOP TS at `options` (RFC 7323 appendix A). */
export function writeTimestamps(options: usize, value: u32, echo: u32): void {
  store<u32>(options, 0x0a080101);
  put32(options + 4, value);
  put32(options + 8, echo);
}

/** Octets of options that every segment of this connection carries after the handshake. */
export function optionLength(c: Connection): u32 {
  return has(c, Flag.TsOk) ? 12 : 0;
}

/** Payload of one wire segment towards the client (SMSS less options). */
export function clientSegmentSize(c: Connection): u32 {
  const s = state();
  let mss = c.cliMss;
  if (s.mssMax && mss > s.mssMax) mss = s.mssMax;
  const options = optionLength(c);
  return mss > options + 64 ? mss - options : 64;
}

/**
 * True when our server's kernel sends nothing into `window`, octets of room at the client, before its timer
 * makes it (RFC 9293 section 3.8.6.2.1): less than a segment, and less than half of the largest it has seen.
 */
export function isTooSmall(c: Connection, window: u32): bool {
  return window < clientSegmentSize(c) && window < (c.maxWnd >>> 1) + 1;
}

/** The window field for a client that is shown `ack` and may send up to `edge`. */
export function windowField(c: Connection, ack: u32, edge: u32): u32 {
  if (!before(ack, edge)) return 0;
  // Rounded up: rounding down would move the right edge back (RFC 7323 section 2.4).
  const scale = c.srvWs;
  const field = (edge - ack + (1 << scale) - 1) >>> scale;
  return field > 65535 ? 65535 : field;
}

/** The ACK we may show: all we hold when fed, else what the kernel said and is committed. */
function ackToShow(c: Connection): u32 {
  const s = state();
  let ack = has(c, Flag.Fed) ? c.rcvNxt : c.legAck;
  // While its log is on the way, the standby's word is about what was long acknowledged.
  const isNew = c.reason == Reason.Joining && isBeingTold(c);
  const isClamped = has(c, Flag.Hot) && s.commitMode == Commit.Ack && !isNew;
  if (isClamped) ack = earlier(ack, c.peerNxt);
  return later(ack, c.ackShown);
}

/** Log mode: the first octet that the log has no room for, here or at the standby. */
export function logEnd(c: Connection): u32 {
  const s = state();
  const peer = has(c, Flag.Hot) && s.peerLogLimit < s.logLimit;
  return c.irs + 1 + (peer ? s.peerLogLimit : s.logLimit);
}

/** Log mode: whether octets up to `end` are more than the log may hold. */
export function isPastLog(c: Connection, end: u32): bool {
  // A window is rounded up, so a client that is slowed may send a little more than it has room for.
  return after(end, logEnd(c) + (state().logHolds ? WINDOW_GRAIN : 0));
}

/** The right edge we may show: the kernel's, within what the standby stores. */
function edgeToShow(c: Connection): u32 {
  let edge = c.legEdge;
  if (has(c, Flag.Logged)) {
    if (state().logHolds) edge = earlier(edge, logEnd(c));
  } else {
    if (has(c, Flag.Hot)) edge = earlier(edge, c.peerEdge);
    // A kernel may offer more (tcp_rmem) than the log has room for, from which it is fed.
    if (has(c, Flag.Fed)) edge = earlier(edge, c.legAck + state().logLimit);
  }
  return later(edge, c.edgeShown);
}

/** Sends the client an ACK with what we may show now. */
export function ackClient(c: Connection): void {
  c.flags &= ~(<u32> Flag.AckClient);
  const ack = ackToShow(c);
  const edge = edgeToShow(c);
  const window = windowField(c, ack, edge);
  const options = optionLength(c);
  // SND.NXT, and never before what the client has: an old number would make it ignore the ACK.
  const next = has(c, Flag.FinHeld) ? c.srvFin : c.sndNxt;
  const seq = later(later(next, c.cliAck), c.sndShown);
  const packet = make(c, NET, ACK, seq, ack, window, options);
  if (options) writeTimestamps(tcpOf(packet) + 20, c.tsShown, c.cliTs);
  noteShown(c, ack, window);
  count(Counter.AcksMade);
  toClient(packet, complete(packet, 0, 65535));
  checkClosed(c); // with commit "ack", the client may have finished before its own FIN was acknowledged
}

/**
 * Asks the client where it stands: a segment without octets and one number too old is answered with
 * an ACK at once (RFC 9293 section 3.10.7.4). A window that opened while nobody listened is learnt.
 */
export function probeClient(c: Connection): void {
  const options = optionLength(c);
  const window = windowField(c, c.ackShown, c.edgeShown);
  const packet = make(c, NET, ACK, c.cliAck - 1, c.ackShown, window, options);
  if (options) writeTimestamps(tcpOf(packet) + 20, c.tsShown, c.cliTs);
  toClient(packet, complete(packet, 0, 65535));
}

/** Remembers what the client has now been told. */
export function noteShown(c: Connection, ack: u32, window: u32): void {
  c.ackShown = later(c.ackShown, ack);
  c.edgeShown = later(c.edgeShown, ack + (window << c.srvWs));
}

/** What ACK and window field the client may be shown instead of the kernel's; see DESIGN 5.2, 5.3. */
export function shownAck(c: Connection): u32 {
  return ackToShow(c);
}
/** See `shownAck()`. */
export function shownEdge(c: Connection): u32 {
  return edgeToShow(c);
}

/** A segment of output from our own store, for the release of the parked flight. */
export function makeOutput(c: Connection, seq: u32, flags: u32): usize {
  const ack = ackToShow(c);
  const window = windowField(c, ack, edgeToShow(c));
  const options = optionLength(c);
  const packet = make(c, NET, flags | ACK | PSH, seq, ack, window, options);
  if (options) writeTimestamps(tcpOf(packet) + 20, c.tsShown, c.cliTs);
  noteShown(c, ack, window);
  return packet;
}

/** The SYN-ACK as the client saw it or would have seen it, from the record. */
export function sendSynAck(c: Connection): void {
  const wide = has(c, Flag.WsOk);
  const stamped = has(c, Flag.TsOk);
  const sack = has(c, Flag.SackOk);
  const window = earlier(65535, c.edgeShown - c.irs - 1);
  const packet = make(
    c,
    NET,
    SYN | ACK,
    c.iss,
    c.irs + 1,
    window,
    synOptionLength(wide, stamped, sack),
  );
  writeSynOptions(
    tcpOf(packet) + 20,
    c.srvMss,
    wide ? <i32> c.srvWs : -1,
    sack,
    stamped,
    c.tsShown,
    c.cliTs,
  );
  toClient(packet, complete(packet, 0, 65535));
}

/** The client's SYN again, played to the local kernel. */
export function sendSyn(c: Connection): void {
  const wide = has(c, Flag.WsOk);
  const stamped = has(c, Flag.TsOk);
  const sack = has(c, Flag.SackOk);
  const packet = make(
    c,
    APP,
    SYN | c.synFlags,
    c.irs,
    0,
    c.synWindow,
    synOptionLength(wide, stamped, sack),
  );
  writeSynOptions(
    tcpOf(packet) + 20,
    c.cliMss,
    wide ? <i32> c.cliWs : -1,
    sack,
    stamped,
    c.synTs,
    0,
  );
  toServer(packet, complete(packet, 0, 65535));
}

function synOptionLength(wide: bool, stamped: bool, sack: bool): u32 {
  return 4 + (wide ? 4 : 0) + (stamped ? 12 : sack ? 4 : 0);
}

/** Writes MSS, SACK-permitted, timestamps and window scale (-1 for none). */
function writeSynOptions(
  to: usize,
  mss: u32,
  scale: i32,
  sack: bool,
  stamped: bool,
  value: u32,
  echo: u32,
): void {
  store<u16>(to, 0x0402);
  put16(to + 2, mss);
  to += 4;
  if (stamped) {
    writeTimestamps(to, value, echo);
    if (sack) store<u16>(to, 0x0204);
    to += 12;
  } else if (sack) {
    store<u32>(to, 0x01010204);
    to += 4;
  }
  if (scale >= 0) {
    store<u16>(to, 0x0301);
    store<u8>(to, 3, 2);
    store<u8>(to, <u8> scale, 3);
  }
}

/** Ends the local kernel's side of a connection; `seq` is its RCV.NXT, so it believes us at once. */
export function resetServer(c: Connection): void {
  const s = state();
  if (!hasRoom()) return;
  const packet = make(c, APP, RST | ACK, c.legAck, c.legUna - c.issDelta, 0, 0);
  toServer(packet, complete(packet, 0, 65535));
  if (s.role == Role.Standby) count(Counter.Closed);
}

/** A key without a record, for segments to sockets we know nothing of. */
const STRANGER: usize = memory.data(512, 16);

/**
 * Ends a socket of the local kernel that belongs to no record: it is from a former life of this
 * daemon, whose connections others have or nobody, and would speak with numbers that mean nothing
 * now. `v` is what it sent; its own ACK is the number at which it believes a RST.
 */
export function resetStranger(v: View): void {
  if (!hasRoom()) return;
  const c = changetype<Connection>(STRANGER);
  const client = v.ip + (v.family == 4 ? 16 : 24);
  memory.copy(STRANGER, client, v.family == 4 ? 4 : 16);
  c.ports = v.destinationPort | (v.sourcePort << 16);
  const packet = make(c, APP, RST, v.ack, 0, 0, 0);
  toServer(packet, complete(packet, 0, 65535));
  count(Counter.Strangers);
}

/**
 * Refuses a connection attempt as a closed port would (RFC 9293 section 3.10.7.1); without room it
 * is not answered, and its SYN comes again.
 */
export function refuseClient(c: Connection): void {
  if (!hasRoom()) return;
  const packet = make(c, NET, RST | ACK, 0, c.irs + 1, 0, 0);
  toClient(packet, complete(packet, 0, 65535));
  count(Counter.Refused);
}

/** The record at `index + 1`, for lists. */
export function listed(index: u32): Connection {
  return at(index - 1);
}
