/**
 * client.ts - a packet from the client's side
 *
 *   client ── hf-net ──> parse ──> known? ──no──> SYN to a served port: new record; else pass
 *                                    │yes
 *             SYN, RST: RFC 5961 ────┤
 *             SEG.ACK, window, TS ───┤ into the record (progress for the standby)
 *             octets, FIN ───────────┤ to the standby's log, and
 *                                    ├─ direct: SEG.ACK, SACK, TSecr into server space ──> hf-app
 *                                    └─ fed: into our own log, the feeder does the rest
 *
 * Only segments that are acceptable (RFC 9293 section 3.10.7.4) move the record; the local kernel
 * judges all others itself, as it would without us.
 */
import {
  HALF_OPEN_MS,
  LINGER_MS,
  REPEAT_MIN_MS,
  UNKNOWN_OUTPUT_ECHO_MS,
  UNKNOWN_OUTPUT_MS,
} from "../limits";
import { count, Counter, isServed, Role, state } from "../state";
import { after, before, earlier, get16, later } from "../wire/bytes";
import {
  ACK,
  CWR,
  dropPayload,
  ECE,
  eraseOptions,
  FIN,
  isChecksumGood,
  isToService,
  Kind,
  parse,
  RST,
  setAck,
  setTcp32,
  shiftQuoted,
  shiftSack,
  SYN,
  tsEcr,
  tsVal,
  View,
  view,
} from "../wire/packet";
import {
  at,
  Connection,
  Flag,
  has,
  isOver,
  isStored,
  isTold,
  Leg,
  Phase,
  Reason,
} from "../flow/connection";
import {
  checkClosed,
  dropLog,
  freeIndex,
  inputLog,
  isPastKept,
  markDirty,
  markPump,
  occupy,
  release,
  startTimer,
  stopKeeping,
  unprotect,
} from "../flow/lifecycle";
import { find } from "../flow/table";
import { clear } from "../stream/chain";
import { clearRanges, cover, COVER_NO_MEMORY } from "../stream/ranges";
import { CloseHow, hasRoomFor, writeClose, writeData, writeRaw } from "../records";
import { answerReset, noteHeard, noteUntold } from "./comparing";
import { settlePoint } from "./cutting";
import { absorb, endServer, enterFed, noteClientFin, owes } from "./feeder";
import { hasRoom, isPastLog, refuseClient, sendSynAck, toServer } from "./output";
import { joinFragment } from "./reassembly";
import { isWaiting } from "./recovery";
import { alignTimestamps } from "./takeover";

/** Takes one packet that came from hf-net. */
export function fromClient(packet: usize, length: u32): void {
  const s = state();
  count(Counter.FromClients);
  if (s.role != Role.Primary) {
    if (s.relaying) writeRaw(packet, length);
    else count(Counter.Swallowed);
    return;
  }
  let kind = parse(packet, length);
  const v = view();
  if (kind == Kind.Malformed) {
    count(Counter.Malformed);
    return;
  }
  if (!isToService(v)) {
    count(Counter.NotOurs);
    return;
  }
  if (kind == Kind.Fragment) {
    count(Counter.Fragments);
    if (v.protocol != 6) {
      toServer(packet, length);
      return;
    }
    // A fragment of a segment cannot be logged or translated: it waits for the others.
    const whole = joinFragment(v);
    if (!whole) return;
    kind = parse(whole, load<u32>(whole - 4));
    if (kind != Kind.Tcp) {
      count(Counter.Malformed);
      return;
    }
  }
  if (kind == Kind.IcmpError) translateError(v);
  if (kind != Kind.Tcp || !isServed(v.destinationPort)) {
    toServer(v.at, v.length);
    return;
  }
  const source = v.ip + (v.family == 4 ? 12 : 8);
  const ports = v.sourcePort | (v.destinationPort << 16);
  const v6 = v.family == 6;
  const index = find(
    load<u32>(source),
    v6 ? load<u32>(source, 4) : 0,
    v6 ? load<u32>(source, 8) : 0,
    v6 ? load<u32>(source, 12) : 0,
    ports,
  );
  if (!isChecksumGood(v)) {
    count(Counter.BadChecksum);
    return;
  }
  if (index) known(at(index - 1), v);
  else if ((v.flags & (SYN | ACK | RST)) == SYN) begin(v, source, ports);
  else toServer(v.at, v.length);
}

/** A SYN on a tuple that no record holds. */
function begin(v: View, source: usize, ports: u32): void {
  const s = state();
  const index = freeIndex();
  if (!index) {
    // ISS.client of a connection without a record is the local kernel's: passing needs no state.
    count(Counter.TableFull);
    count(Counter.Unprotected);
    toServer(v.at, v.length);
    return;
  }
  const v6 = v.family == 6;
  const c = occupy(
    index - 1,
    load<u32>(source),
    v6 ? load<u32>(source, 4) : 0,
    v6 ? load<u32>(source, 8) : 0,
    v6 ? load<u32>(source, 12) : 0,
    ports,
  );
  c.generation = ++s.generation & 0xffff;
  c.phase = Phase.Syn;
  c.leg = Leg.SynSent;
  count(Counter.Opened);
  takeSyn(c, v);
  if (v.hasMd5 || v.hasAuth) {
    // RFC 2385 and RFC 5925 sign the sequence numbers: nobody else can ever speak for the server.
    unprotect(c, v.hasMd5 ? Reason.Md5 : Reason.AuthOption);
    count(Counter.Unprotected);
    if (s.refuseUnprotectable) {
      refuseClient(c);
      release(c);
      return;
    }
  } else {
    clean(v);
  }
  startTimer(c, s.now + HALF_OPEN_MS);
  if (!isWaiting(c)) toServer(v.at, v.length);
}

/** Removes what cannot be carried over to another server from a SYN. */
function clean(v: View): void {
  if (!v.hasMultipath && !v.hasFastOpen) return;
  if (eraseOptions(v)) count(Counter.OptionsRemoved);
  // Octets of a Fast Open SYN are sent again once they are not acknowledged (RFC 7413).
  if (v.hasFastOpen) dropPayload(v);
}

/** Keeps what a SYN says. */
function takeSyn(c: Connection, v: View): void {
  c.irs = v.seq;
  c.rcvNxt = v.seq + 1;
  c.logFrom = v.seq + 1;
  c.legAck = v.seq + 1;
  c.legNxt = v.seq + 1;
  c.cliMss = v.mssAt ? get16(v.tcp + v.mssAt) : state().family == 4 ? 536 : 1220;
  c.flags &= ~(<u32> (Flag.TsOk | Flag.SackOk | Flag.WsOk));
  if (v.tsAt) {
    c.flags |= Flag.TsOk;
    c.cliTs = tsVal(v);
    c.cliTsNew = c.cliTs;
    c.synTs = c.cliTs;
  }
  if (v.hasSackPermitted) c.flags |= Flag.SackOk;
  if (v.wsAt) {
    c.flags |= Flag.WsOk;
    const scale: u32 = load<u8>(v.tcp + v.wsAt);
    c.cliWs = scale > 14 ? 14 : scale;
  }
  c.synFlags = v.flags & (ECE | CWR);
  c.synIss = v.seq;
  c.synWindow = v.window;
  c.cliWnd = v.window;
  c.maxWnd = v.window;
}

/** A segment of a known connection. */
function known(c: Connection, v: View): void {
  const s = state();
  c.seenAt = s.now;
  if (v.flags & SYN) {
    onSyn(c, v);
    return;
  }
  if (c.phase == Phase.Closed && has(c, Flag.Diverged)) {
    answerReset(c, v.flags, v.ack);
    return;
  }
  if (isOver(c)) {
    // A late FIN means that our last ACK was lost: the record answers, as
    // a kernel in TIME-WAIT would; after a takeover the local one may know nothing any more.
    if ((v.payloadLength || (v.flags & FIN) != 0) && (v.flags & RST) == 0) {
      c.flags |= Flag.AckClient;
      markPump(c);
    }
    return;
  }
  if (v.tsAt && has(c, Flag.Taken | Flag.TsOk)) followEcho(c, v);
  if (
    has(c, Flag.Taken) && (v.flags & ACK) != 0 && after(v.ack, c.sndShown) &&
    !after(v.ack, mostAcked(c, v)) && !after(v.seq, c.edgeShown) && noteUntold(c, v.ack)
  ) {
    return;
  }
  if (
    has(c, Flag.Unheard) && (v.flags & (ACK | RST)) == ACK && !after(v.ack, c.sndShown) &&
    !before(v.ack, c.cliAck) && !after(v.seq, c.edgeShown)
  ) {
    noteHeard(c);
  }
  if (
    has(c, Flag.Taken) && !has(c, Flag.Fed) && c.leg == Leg.Open && after(v.ack, c.sndNxt) &&
    (v.flags & ACK) != 0 && !after(v.ack, mostAcked(c, v)) && !after(v.seq, c.edgeShown)
  ) {
    // It has octets of the old primary's that our server has yet to write: stand between again.
    enterFed(c);
  }
  if (
    v.payloadLength && has(c, Flag.Taken) && !has(c, Flag.Fed) && c.leg == Leg.Open &&
    after(v.seq + v.payloadLength, c.legEdge) && !after(v.seq + v.payloadLength, c.edgeShown)
  ) {
    // The old primary's window was wider than our server's is yet: the log makes up for it.
    enterFed(c);
  }
  const fed = has(c, Flag.Fed);
  if (v.flags & RST) {
    onReset(c, v, fed);
    return;
  }
  const end = v.seq + v.payloadLength;
  const stale = before(end, c.ackShown);
  const beyond = after(v.seq, c.edgeShown);
  let moved = false;
  if ((v.flags & ACK) != 0 && !stale && !beyond && c.phase >= Phase.Half) moved = takeAck(c, v);
  const hot = has(c, Flag.Hot);
  if (v.tsAt && !beyond && !before(end, c.ackShown - 1) && isBelievable(c, v)) {
    c.cliTsNew = later(c.cliTsNew, tsVal(v));
  }
  if (v.payloadLength || (v.flags & FIN) != 0) {
    if (hot || fed || isStored(c)) {
      if (!stale && c.phase >= Phase.Half && !isBelievable(c, v)) {
        // The kernel would answer with an ACK and drop it (RFC 5961 section 5.2, RFC 7323 section 5):
        // so do we, because an octet it refuses must not reach the standby's server either.
        count(Counter.OutOfWindow);
        c.flags |= Flag.AckClient;
        markPump(c);
        return;
      }
      if (!takeOctets(c, v, end, hot, fed)) return;
    } else if ((v.flags & FIN) != 0 && !beyond && !stale) noteClientFin(c, end);
  } else if (fed && (moved || before(v.seq, c.rcvNxt))) {
    // A keep-alive or window probe repeats an octet we have: it wants an answer.
    if (before(v.seq, c.rcvNxt)) c.flags |= Flag.AckClient;
    markPump(c);
  }
  if (moved && hot) markDirty(c);
  checkClosed(c);
  if (fed) return;
  if (c.issDelta) {
    if (v.flags & ACK) setAck(v, v.ack - c.issDelta);
    if (v.sackAt) shiftSack(v, c.issDelta);
  }
  if (c.tsDelta && v.tsAt) setTcp32(v, v.tsAt + 4, tsEcr(v) - c.tsDelta);
  toServer(v.at, v.length);
}

/**
 * A client that echoes a stamp we have never shown has it from the old primary, which was further
 * than we thought: it drops what we say until our clock is there too (PAWS).
 */
function followEcho(c: Connection, v: View): void {
  const s = state();
  const echo = tsEcr(v);
  const ahead = echo - c.tsShown;
  if (<i32> ahead <= 0 || ahead > UNKNOWN_OUTPUT_ECHO_MS || (v.flags & ACK) == 0) return;
  if (before(v.seq + v.payloadLength, c.ackShown) || after(v.seq, c.edgeShown)) return;
  c.tsShown = echo;
  c.tsClock = later(c.tsClock, echo - s.now);
  if (c.leg >= Leg.SynAck) alignTimestamps(c);
}

/**
 * True when a kernel would take octets from this segment: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT
 * (RFC 5961 section 5.2; Linux counts no more than was ever acknowledged), and TSval is not older
 * than TS.Recent (PAWS).
 */
function isBelievable(c: Connection, v: View): bool {
  if ((v.flags & ACK) == 0) return false;
  if (after(v.ack, has(c, Flag.Fed) ? mostAcked(c, v) : c.sndNxt)) return false;
  const acked = c.cliAck - c.iss;
  if (before(v.ack, c.cliAck - (c.maxWnd < acked ? c.maxWnd : acked))) return false;
  if (has(c, Flag.TsOk) && v.tsAt && before(tsVal(v), c.cliTs)) return false;
  return true;
}

/**
 * The highest number this segment can honestly acknowledge. After a takeover that may be octets the
 * old primary sent in its last moments and we know nothing of; as such an ACK makes us drop output,
 * it must come from one who has heard us or the old primary lately: its TSecr says so, and without
 * timestamps only the time since the takeover does.
 */
function mostAcked(c: Connection, v: View): u32 {
  const known = later(c.sndNxt, c.sndShown);
  if (!has(c, Flag.Taken)) return known;
  if (has(c, Flag.TsOk)) {
    if (!v.tsAt) return known;
    const echo = tsEcr(v);
    if (after(echo, c.tsShown) || before(echo, c.tsShown - UNKNOWN_OUTPUT_ECHO_MS)) return known;
  } else if (state().now - c.takenAtMs > UNKNOWN_OUTPUT_MS) return known;
  return later(known, c.saidMost);
}

/** Takes SEG.ACK, window and TSval into the record; true when something moved. */
function takeAck(c: Connection, v: View): bool {
  let moved = false;
  // After a takeover the client may have acknowledged more than our server has produced so far.
  const most = has(c, Flag.Fed) ? mostAcked(c, v) : c.sndNxt;
  if (after(v.ack, most) || before(v.ack, c.cliAck)) return false;
  if (v.ack != c.cliAck) {
    c.cliAck = v.ack;
    moved = true;
    if (c.phase == Phase.Half && after(v.ack, c.iss)) {
      c.phase = Phase.Open;
      if (c.leg == Leg.SynAck && !has(c, Flag.Fed)) c.leg = Leg.Open;
      if (has(c, Flag.Timer) && !has(c, Flag.Fed)) c.timerAt = state().now;
    }
    if (owes(c) && has(c, Flag.Timer)) {
      c.tries = 0;
      c.rtoMs = REPEAT_MIN_MS;
      c.timerAt = state().now + c.rtoMs;
    }
    if (state().hint) settlePoint(c);
  }
  if (v.window << c.cliWs > c.maxWnd) c.maxWnd = v.window << c.cliWs;
  if (v.window != c.cliWnd) {
    c.cliWnd = v.window;
    c.flags |= Flag.WindowMoved;
    moved = true;
  }
  // RFC 7323 section 4.3: only a segment that starts at or before what is acknowledged.
  if (v.tsAt && !after(v.seq, c.ackShown)) {
    const value = tsVal(v);
    if (after(value, c.cliTs)) {
      c.cliTs = value;
      moved = true;
    }
  }
  if (moved && has(c, Flag.Fed)) markPump(c);
  return moved;
}

/** Takes octets and FIN; false when the segment must go no further. */
function takeOctets(c: Connection, v: View, end: u32, hot: bool, fed: bool): bool {
  const fin = (v.flags & FIN) != 0;
  if (fin && !has(c, Flag.ClientFin)) c.finAck = earlier(v.ack, c.cliAck);
  if (after(end, c.edgeShown)) {
    // More than the window we showed: answered as a full receiver does, and not passed on, because
    // the server may not read what the standby cannot store.
    count(Counter.OutOfWindow);
    c.flags |= Flag.AckClient;
    markPump(c);
    return false;
  }
  if (has(c, Flag.ClientFin) && after(end, c.finSeq)) return false;
  if (fed) {
    const fresh = after(end, c.rcvNxt) || (fin && !has(c, Flag.ClientFin));
    if (hot && fresh && !hasRoomFor(v.payloadLength)) return false;
    // What we have no room for the standby must not have either: after a switch it would acknowledge it.
    const taken = absorb(c, v.seq, v.payload, v.payloadLength, fin);
    if (taken && hot && fresh) writeData(c, v.seq, v.payload, v.payloadLength, fin);
    c.flags |= Flag.AckClient;
    markPump(c);
    return true;
  }
  const logged = has(c, Flag.Logged);
  if (logged && isPastLog(c, end)) {
    stopLogging(c, Reason.LogFull);
    return true;
  }
  if (has(c, Flag.Kept) && isPastKept(c, end)) {
    stopKeeping(c);
    if (!has(c, Flag.Hot)) {
      if (fin) noteClientFin(c, end);
      return true;
    }
  }
  const fresh = cover(c, v.seq, end, v.payload, isStored(c) ? inputLog(c) : null);
  if (fresh < 0) {
    stopLogging(c, fresh == COVER_NO_MEMORY ? Reason.LogMemory : Reason.TooManyRanges);
    return true;
  }
  if (fresh > 0 || (fin && !has(c, Flag.ClientFin))) {
    if (hot && !writeData(c, v.seq, v.payload, v.payloadLength, fin)) {
      stopLogging(c, Reason.LogMemory);
      return true;
    }
    c.bytesIn += <u64> fresh;
    markDirty(c);
  } else count(Counter.Duplicates);
  if (fin) noteClientFin(c, end);
  if (has(c, Flag.ClientFin) && c.rcvNxt == c.finSeq) c.rcvNxt++;
  return true;
}

/** Nobody could go on from what is kept of this connection, which its server serves as ever. */
function stopLogging(c: Connection, reason: Reason): void {
  if (has(c, Flag.Hot)) writeClose(c, CloseHow.Dropped, 0);
  if (has(c, Flag.Logged)) {
    c.flags &= ~(<u32> Flag.Logged);
    clear(inputLog(c));
    clearRanges(c);
    c.reason = reason;
    count(Counter.Unprotected);
  }
  unprotect(c, reason);
  stopKeeping(c);
}

function onSyn(c: Connection, v: View): void {
  if (v.flags & ACK) {
    count(Counter.Malformed);
    return;
  }
  if (c.reason != Reason.Md5 && c.reason != Reason.AuthOption) clean(v);
  if (v.seq == c.irs && c.phase <= Phase.Half) {
    // The same SYN again. While the feeder itself opens the leg, the kernel must not see two.
    if (has(c, Flag.Fed) && c.leg != Leg.SynAck) {
      if (has(c, Flag.Logged) && c.phase == Phase.Half && hasRoom()) sendSynAck(c);
      return;
    }
    if (!isWaiting(c)) toServer(v.at, v.length);
    return;
  }
  if (c.phase == Phase.Closed || c.phase == Phase.Syn) {
    const source = v.ip + (v.family == 4 ? 12 : 8);
    const ports = c.ports;
    if (isTold(c)) writeClose(c, CloseHow.Dropped, 0);
    endServer(c);
    release(c);
    begin(v, source, ports);
    return;
  }
  // RFC 5961 section 4.2: the kernel answers with a challenge ACK, whatever the number. Should it
  // have lost the connection it will answer with a SYN-ACK: then this SYN starts a new one.
  c.synIss = v.seq;
  if (!has(c, Flag.Fed)) toServer(v.at, v.length);
  else {
    c.flags |= Flag.AckClient;
    markPump(c);
  }
}

function onReset(c: Connection, v: View, fed: bool): void {
  const s = state();
  // RFC 5961 section 3.2: only the exact next number resets.
  if (v.seq == c.rcvNxt || c.phase == Phase.Syn || (!fed && v.seq == c.legAck)) {
    if (isTold(c)) writeClose(c, CloseHow.ClientReset, v.seq);
    c.flags |= Flag.ClientReset;
    c.flags &= ~(<u32> Flag.Hot);
    c.phase = Phase.Closed;
    dropLog(c);
    startTimer(c, s.now + LINGER_MS);
    count(Counter.Closed);
  } else {
    count(Counter.ChallengedReset);
    if (fed) {
      if (!before(v.seq, c.ackShown) && !after(v.seq, c.edgeShown)) {
        c.flags |= Flag.AckClient;
        markPump(c);
      }
      return;
    }
  }
  if (fed) v.seq = c.legAck;
  if (fed) setTcp32(v, 4, c.legAck);
  if (v.flags & ACK) setAck(v, v.ack - c.issDelta);
  if (c.tsDelta && v.tsAt) setTcp32(v, v.tsAt + 4, tsEcr(v) - c.tsDelta);
  toServer(v.at, v.length);
}

/** An ICMP error about a segment that left in client space: the kernel knows its own numbers. */
function translateError(v: View): void {
  const inner = v.icmp + 8;
  const v6 = v.family == 6;
  const destination = inner + (v6 ? 24 : 16);
  const ports = get16(v.quoted + 2) | (get16(v.quoted) << 16);
  const index = find(
    load<u32>(destination),
    v6 ? load<u32>(destination, 4) : 0,
    v6 ? load<u32>(destination, 8) : 0,
    v6 ? load<u32>(destination, 12) : 0,
    ports,
  );
  if (!index) return;
  const c = at(index - 1);
  if (!c.issDelta) return;
  shiftQuoted(v, c.issDelta);
  count(Counter.IcmpTranslated);
}
