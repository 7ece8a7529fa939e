/**
 * apply.ts - what the peer says becomes our state
 *
 * Bodies are hostile until checked: every length is compared with what is left before it is used,
 * every index with the table. See records.ts for the layout.
 */
import { LINGER_MS, PACKET_MAX } from "../limits";
import { Commit, count, Counter, Role, state } from "../state";
import { after, before, earlier, later } from "../wire/bytes";
import { at, Connection, Flag, has, Leg, Phase, Reason } from "../flow/connection";
import { comparisonOf } from "../flow/comparison";
import {
  ackSoon,
  dropLog,
  goAlone,
  markDirty,
  markPump,
  occupy,
  parkFrom,
  release,
  startTimer,
} from "../flow/lifecycle";
import { find } from "../flow/table";
import { Finding, noteFinding } from "../judgement";
import {
  AGAIN_SIZE,
  CLOSE_SIZE,
  CloseHow,
  CUT_SIZE,
  DATA_HEAD,
  FAIL_SIZE,
  FIN_HEAD,
  FROM_LOG,
  MARK_SIZE,
  OPEN_SIZE,
  PROGRESS_SIZE,
  RAW_HEAD,
  RecordType,
  REPORT_SIZE,
  writeClose,
  writeFail,
} from "../records";
import { noteMark, noteTold, startComparing, takeTold } from "./comparing";
import { settlePoint, takeCut } from "./cutting";
import { notePeerOutput, refuse } from "./ending";
import { absorb, endServer, failLeg } from "./feeder";
import { noteTheirMove, readUpTo } from "./lag";
import { fromClient } from "./client";
import { noteBrought } from "./telling";

/** Applies a whole body. Returns 0, or 1 + the offset of the first record that is not well formed. */
export function applyBody(body: usize, length: u32): u32 {
  let offset: u32 = 0;
  while (offset < length) {
    const left = length - offset;
    const record = body + offset;
    if (left < 8) return offset + 1;
    const used = apply(record, left);
    if (!used) return offset + 1;
    count(Counter.PeerRecords);
    offset += (used + 3) & ~3;
  }
  return 0;
}

/**
 * Standby: what the next replica of the chain says of what it was handed on. It speaks to the primary, whom only
 * the number of what it has applied concerns; we note what it could go on from. Returns as `applyBody()` does.
 */
export function applyNext(body: usize, length: u32): u32 {
  const s = state();
  let offset: u32 = 0;
  while (offset < length) {
    const left = length - offset;
    const record = body + offset;
    const type: u32 = left < 8 ? 0 : load<u8>(record);
    const size = type == RecordType.Report ? REPORT_SIZE : type == RecordType.Fail ? FAIL_SIZE : 0;
    if (!size || left < size) return offset + 1;
    const c = named(record);
    // One whose whole log it keeps it can go on from, whatever its server does.
    const isKept = type == RecordType.Fail && (load<u8>(record, 1) & FROM_LOG) != 0;
    if (s.role == Role.Standby && c !== null && !isKept) {
      noteNext(c, record, type == RecordType.Fail);
    }
    count(Counter.PeerRecords);
    offset += (size + 3) & ~3;
  }
  return 0;
}

function noteNext(c: Connection, record: usize, fails: bool): void {
  const flags: u32 = load<u8>(record, 1);
  const isReady = !fails && (flags & 8) != 0 && ((flags & 4) != 0 || has(c, Flag.Logged));
  c.next = isReady ? 1 : 0;
  if (!fails) takePlace(c, record);
}

/** How far the other's log is, and how far it may go. */
function takePlace(c: Connection, record: usize): void {
  c.peerNxt = later(c.peerNxt, earlier(load<u32>(record, 8), c.rcvNxt));
  const edge = load<u32>(record, 12);
  // A promise may not be larger than what can be meant: 1 GiB is the largest window there is.
  if (<u32> (edge - c.peerNxt) <= 1 << 30) c.peerEdge = later(c.peerEdge, edge);
}

/** The record this names, when it is in use and the same incarnation. */
function named(record: usize): Connection | null {
  const s = state();
  const index = load<u32>(record, 4);
  if (index >= s.capacity) return null;
  const c = at(index);
  if (c.phase == Phase.Free || c.generation != load<u16>(record, 2)) return null;
  return c;
}

/** True when nothing is known of a connection that is told again, or it was given up since. */
function isUnknown(record: usize): bool {
  const c = named(record);
  return c === null || c.leg >= Leg.Dead || has(c, Flag.Diverged);
}

/** Applies one record; returns its size, 0 when it is not well formed. */
function apply(record: usize, left: u32): u32 {
  const s = state();
  const standby = s.role == Role.Standby;
  const flags: u32 = load<u8>(record, 1);
  switch (<u32> load<u8>(record)) {
    case RecordType.Open: {
      const again = (flags & 2) != 0;
      const size = again ? AGAIN_SIZE : OPEN_SIZE;
      if (left < size) return 0;
      s.ackDue = 1;
      if (!standby) return size;
      if (!again) applyOpen(record, (flags & 1) != 0);
      else if (isUnknown(record)) {
        applyOpen(record, false);
        applyAgain(record);
        s.toldLate = 1;
      } else named(record)!.toldAgainIn = s.segment;
      return size;
    }
    case RecordType.Data: {
      const fin = (flags & 1) != 0;
      const head = fin ? FIN_HEAD : DATA_HEAD;
      if (left < head) return 0;
      const length = load<u32>(record, 12);
      if (length > left - head) return 0;
      s.ackDue = 1;
      const c = named(record);
      if (standby && c !== null && c.leg != Leg.Dead) {
        if (fin && !has(c, Flag.ClientFin)) c.finAck = load<u32>(record, 16);
        absorb(c, load<u32>(record, 8), record + head, length, fin);
      }
      return head + length;
    }
    case RecordType.Progress: {
      if (left < PROGRESS_SIZE) return 0;
      const c = named(record);
      if (standby && c !== null) applyProgress(c, record, flags);
      return PROGRESS_SIZE;
    }
    case RecordType.Close: {
      if (left < CLOSE_SIZE) return 0;
      const c = named(record);
      if (standby && c !== null) applyClose(c, flags, load<u32>(record, 8));
      return CLOSE_SIZE;
    }
    case RecordType.Report: {
      if (left < REPORT_SIZE) return 0;
      const c = named(record);
      if (s.role == Role.Primary && c !== null) applyReport(c, record, flags);
      return REPORT_SIZE;
    }
    case RecordType.Fail: {
      if (left < FAIL_SIZE) return 0;
      const c = named(record);
      if (flags & FROM_LOG) {
        if (s.role == Role.Primary && c !== null) noteCold(c, record, flags & ~FROM_LOG);
        return FAIL_SIZE;
      }
      if (s.role == Role.Primary && c !== null && has(c, Flag.Asked)) refuse(c);
      else if (s.role == Role.Primary && c !== null && has(c, Flag.Hot)) {
        // A diverged record is still told of its end, and one that hangs is looked at until it moves.
        const isKept = flags == <u32> Reason.Diverged || flags == <u32> Reason.StandbyHangs;
        if (!isKept) writeClose(c, CloseHow.Dropped, 0);
        if (flags == <u32> Reason.StandbyHangs) noteHang(c, record);
        goAlone(c, flags >= 1 && flags <= <u32> Reason.StandbyHangs ? flags : Reason.StandbyReset);
        if (flags == Reason.Diverged) {
          count(Counter.Diverged);
          noteFinding(Finding.Diverged, c, load<u32>(record, 8), load<u32>(record, 12), s.now);
        }
      }
      return FAIL_SIZE;
    }
    case RecordType.Mark: {
      if (left < MARK_SIZE) return 0;
      const c = named(record);
      if (standby && c !== null) {
        noteMark(c, load<u32>(record, 8), load<u32>(record, 12), load<u64>(record, 16));
      }
      return MARK_SIZE;
    }
    case RecordType.Cut: {
      if (left < CUT_SIZE) return 0;
      const c = named(record);
      if (standby && c !== null && c.leg < Leg.Dead) {
        const shown = load<u32>(record, 16);
        const isTaken = takeCut(c, load<u32>(record, 8), load<u32>(record, 12), shown);
        // Of which a part only was told: it is told of anew.
        if (!isTaken && c.reason == Reason.Joining) drop(c);
        else if (!isTaken) failLeg(c, Reason.StandbyDiffers);
      }
      return CUT_SIZE;
    }
    case RecordType.Raw: {
      if (left < RAW_HEAD) return 0;
      const length = load<u32>(record, 8);
      if (length > left - RAW_HEAD || length > PACKET_MAX) return 0;
      if (s.role == Role.Primary) fromClient(record + RAW_HEAD, length);
      return RAW_HEAD + length;
    }
    default:
      return 0;
  }
}

function applyOpen(record: usize, asks: bool): void {
  const s = state();
  const index = load<u32>(record, 4);
  const generation = load<u16>(record, 2);
  if (index >= s.capacity) {
    writeFail(index, generation, Reason.StandbyTableFull);
    return;
  }
  const ports = load<u32>(record, 24);
  const c0 = load<u32>(record, 8);
  const c1 = load<u32>(record, 12);
  const c2 = load<u32>(record, 16);
  const c3 = load<u32>(record, 20);
  drop(at(index));
  const same = find(c0, c1, c2, c3, ports);
  if (same) drop(at(same - 1));
  const c = occupy(index, c0, c1, c2, c3, ports);
  c.generation = generation;
  c.toldIn = s.segment;
  c.phase = Phase.Half;
  c.reason = Reason.Pending;
  c.flags |= Flag.Fed | (<u32> load<u8>(record, 43) & 7);
  c.irs = load<u32>(record, 28);
  c.iss = load<u32>(record, 32);
  c.cliMss = load<u16>(record, 36);
  c.srvMss = load<u16>(record, 38);
  const cliWs: u32 = load<u8>(record, 40);
  const srvWs: u32 = load<u8>(record, 41);
  c.cliWs = cliWs > 14 ? 14 : cliWs;
  c.srvWs = srvWs > 14 ? 14 : srvWs;
  c.synFlags = load<u8>(record, 42) & 0xc0;
  c.synTs = load<u32>(record, 44);
  c.cliTs = c.synTs;
  c.cliTsNew = c.synTs;
  c.tsShown = load<u32>(record, 48);
  c.tsClock = c.tsShown - load<u32>(record, 60) + peerClock(load<u32>(record, 60));
  c.synWindow = load<u32>(record, 52) & 0xffff;
  c.cliWnd = c.synWindow >>> c.cliWs;
  c.maxWnd = c.synWindow;
  c.rcvNxt = c.irs + 1;
  c.logFrom = c.rcvNxt;
  c.legAck = c.rcvNxt;
  c.legNxt = c.rcvNxt;
  c.ackShown = c.rcvNxt;
  c.edgeShown = c.rcvNxt + (load<u32>(record, 56) & 0xffff);
  c.legEdge = c.rcvNxt;
  c.peerRead = c.rcvNxt;
  c.peerNxt = c.rcvNxt;
  c.peerEdge = c.rcvNxt;
  c.edgeReported = c.rcvNxt + s.logLimit;
  c.sndNxt = c.iss + 1;
  c.saidMost = c.sndNxt;
  c.sndShown = c.sndNxt;
  c.cliAck = c.iss;
  c.legUna = c.iss;
  parkFrom(c, c.sndNxt);
  c.peerSnd = c.sndNxt;
  if (asks) c.flags |= Flag.Asked;
  else startComparing(c);
  if (s.logMode) {
    c.flags |= Flag.Logged;
    c.reason = Reason.None;
    // Of more than two replicas, who hands it on to us is to know that we have it.
    if (s.inbox2) markDirty(c);
  } else if (s.keepLimit && !asks) c.flags |= Flag.Kept;
  count(Counter.Opened);
  markPump(c);
}

/** What else is told of a connection that was told of before. */
function applyAgain(record: usize): void {
  const c = named(record);
  if (c === null) return;
  c.cliAck = load<u32>(record, 64);
  c.sndShown = load<u32>(record, 68);
  c.outShown = load<u64>(record, 72);
  if (has(c, Flag.Logged)) {
    c.sndNxt = c.sndShown;
    parkFrom(c, c.sndShown);
  }
  takeTold(c, load<u32>(record, 80), load<u64>(record, 84));
  c.reason = Reason.Joining;
}

/**
 * The primary's clock minus ours, when it read `theirs` as it wrote a record. Messages may lie
 * anywhere for a while, so the true difference is at least the largest ever seen.
 */
function peerClock(theirs: u32): u32 {
  const s = state();
  const ahead = theirs - s.now;
  s.peerClock = s.peerClockKnown ? later(s.peerClock, ahead) : ahead;
  s.peerClockKnown = 1;
  return s.peerClock;
}

/** Frees a record of a standby; its server learns of it when it would not otherwise. */
export function drop(c: Connection): void {
  if (c.phase == Phase.Free) return;
  endServer(c);
  release(c);
}

function applyProgress(c: Connection, record: usize, flags: u32): void {
  const s = state();
  c.seenAt = s.now;
  c.cliAck = later(c.cliAck, load<u32>(record, 8));
  const window = load<u32>(record, 12) & 0xffff;
  if (window << c.cliWs > c.maxWnd) c.maxWnd = window << c.cliWs;
  if (window != c.cliWnd) {
    c.cliWnd = window;
    c.flags |= Flag.WindowMoved;
  }
  c.cliTs = later(c.cliTs, load<u32>(record, 16));
  c.tsClock = later(c.tsClock, load<u32>(record, 20) + peerClock(load<u32>(record, 36)));
  c.ackShown = later(c.ackShown, load<u32>(record, 24));
  c.edgeShown = later(c.edgeShown, load<u32>(record, 28));
  const shown = later(c.sndShown, load<u32>(record, 32));
  c.outShown += <u64> (shown - c.sndShown);
  c.sndShown = shown;
  if ((flags & 1) != 0 && c.phase == Phase.Half) c.phase = Phase.Open;
  // Said anew each time: an end that was alone for long may be agreed on after all.
  if (flags & 4) c.flags |= Flag.PeerGone;
  else c.flags &= ~(<u32> Flag.PeerGone);
  if (flags & 8) noteTold(c, load<u32>(record, 40), load<u64>(record, 44));
  if ((flags & 16) != 0 && c.toldAgainIn != 0) {
    c.toldIn = c.toldAgainIn;
    c.toldAgainIn = 0;
  }
  if ((flags & 16) != 0 && c.reason == Reason.Joining && !has(c, Flag.Brought)) noteBrought(c);
  c.peerRead = load<u32>(record, 52);
  notePeerOutput(c, load<u32>(record, 40), (flags & 2) != 0);
  markPump(c);
}

function applyClose(c: Connection, how: u32, acked: u32): void {
  count(Counter.Closed);
  if (how == CloseHow.Normal) {
    // The local server may be a moment behind; it gets the usual time to finish.
    c.phase = Phase.Closed;
    c.cliAck = later(c.cliAck, acked);
    markPump(c);
    dropLog(c);
    startTimer(c, state().now + LINGER_MS);
    if (c.leg == Leg.Dead) release(c);
    return;
  }
  drop(c);
}

/** The standby's server does not follow a connection, whose log the standby keeps. */
function noteCold(c: Connection, record: usize, reason: u32): void {
  if (!has(c, Flag.Hot | Flag.Logged)) return;
  c.warm = 0;
  c.cold = reason >= 1 && reason <= <u32> Reason.StandbyHangs ? reason : Reason.StandbyReset;
  if (reason != Reason.Diverged) return;
  count(Counter.Diverged);
  const same = load<u32>(record, 12);
  noteFinding(Finding.DivergedFromLog, c, load<u32>(record, 8), same, state().now);
}

/** What the standby says of its server, and how far ours is. */
function noteHang(c: Connection, record: usize): void {
  const reads = load<u32>(record, 16) != 0;
  noteFinding(
    reads ? Finding.TheirsStopsReading : Finding.TheirsStopsWriting,
    c,
    reads ? readUpTo(c) : c.sndNxt,
    load<u32>(record, 8),
    state().now - load<u32>(record, 12),
  );
}

function applyReport(c: Connection, record: usize, flags: u32): void {
  const s = state();
  if (flags & 2) {
    if (has(c, Flag.Asked)) noteFinding(Finding.OursRefuses, c, c.iss + 1, c.iss + 1, c.disputedAt);
    return;
  }
  if (!has(c, Flag.Hot)) return;
  if ((flags & 4) != 0 && c.reason == Reason.Pending) c.reason = Reason.None;
  if ((flags & 8) != 0 && c.reason == Reason.Joining) c.reason = Reason.None;
  takePlace(c, record);
  const showable = s.commitMode == Commit.Ack ? earlier(c.legAck, c.peerNxt) : c.ackShown;
  const widen = after(earlier(c.legEdge, c.peerEdge), c.edgeShown + 2 * c.srvMss);
  if (after(showable, c.ackShown) || widen) ackSoon(c);
  const x = comparisonOf(c);
  x.peerSame = later(x.peerSame, earlier(load<u32>(record, 20), c.sndNxt));
  c.peerRead = load<u32>(record, 24);
  if (after(load<u32>(record, 16), c.peerSnd)) noteTheirMove();
  if (has(c, Flag.Logged)) {
    // Whether ours lives is told by its process (recovery.ts).
    c.warm = (flags & 16) != 0 ? 1 : 0;
    if (c.warm) c.cold = Reason.None;
  } else notePeerOutput(c, load<u32>(record, 16), (flags & 1) != 0);
  if (s.hint) settlePoint(c);
}
