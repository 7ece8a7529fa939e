/**
 * records.ts - what replicas tell each other about connections
 *
 * The body of one replication message is a row of records, little-endian, each padded to 4 octets.
 * All start with | type u8 | flags u8 | generation u16 | index u32 |; `index` names the record in
 * both replicas' tables, `generation` its incarnation.
 *
 *   OPEN      primary to standby   a connection exists; its SYN-ACK waits until this is committed.
 *             flags 1: only asks; the primary's kernel refused the SYN, would the standby's?
 *             flags 2: told again, to be taken where nothing is known of it (segment/telling.ts)
 *     +8  client address 16 | 24 ports u32 | 28 irs | 32 iss | 36 client MSS u16 | 38 server MSS u16
 *     +40 client scale u8 | 41 server scale u8 | 42 SYN's ECE/CWR u8 | 43 options u8 (Flag 0..7)
 *     +44 SYN's TSval | 48 SYN-ACK's TSval | 52 SYN's window | 56 SYN-ACK's window | 60 State.now
 *     with flags 2, 48: the newest TSval that the client can have seen
 *     +64 cliAck | 68 sndShown | 72 octets of output up to there, u64
 *     +80 a digest of output is u64 at 84, up to here; the first octet of all for none
 *   DATA      primary to standby   octets of the client's stream; flags 1: a FIN follows them
 *     +8  seq | 12 length | 16 octets; with flags 1: 16 what the client had acknowledged | 20 octets
 *   PROGRESS  primary to standby   newest state; flags 1: the client has acknowledged the SYN-ACK
 *     +8  cliAck | 12 cliWnd | 16 cliTs | 20 tsClock | 24 ackShown | 28 edgeShown | 32 sndShown
 *     +36 State.now | 40 next octet its server will write; flags 2: it has said FIN there (in log mode:
 *     and meant it), 4: it is gone; flags 8: 44 digest of all it has written, u64
 *     (segment/comparing.ts); flags 16: what was to be told of it is told (segment/telling.ts)
 *     +52 about where its server has read to
 *   CLOSE     primary to standby   the record is gone; flags: `CloseHow`
 *     +8  seq of a client's RST; of one that is finished what the client has acknowledged; else 0
 *   REPORT    standby to primary   committed input and what may still come
 *     +8  rcvNxt | 12 right edge | 16 next octet its server will write; flags 1: it has said FIN there,
 *     2: only an answer to an OPEN that asks: its server accepts, 4: it has accepted the connection,
 *     8: it has been told all there was to tell of it (segment/telling.ts), and could go on,
 *     16: whole logs are kept, and its server could go on at once (segment/recovery.ts)
 *     +20 up to where its output is the primary's | 24 about where its server has read to
 *   FAIL      standby to primary   this connection is not protected; flags: `Reason`, and 128 for one whose whole
 *                                  log the standby keeps: only its server does not follow it
 *     +8  outputs differ before this octet | 12 and are the same up to this one
 *     +8  or: its server stands still at this octet | 12 for how long, ms | 16 1: reading, 0: writing
 *     zero for other reasons
 *   MARK      primary to standby   an answer ends, and the digest of output begins anew (segment/cutting.ts)
 *     +8  end of its request | 12 end of the answer | 16 digest up to there, u64
 *   CUT       primary to standby   at the last MARK: nobody is told what lies before it any more
 *     +8  end of the request | 12 end of the answer | 16 sndShown
 *   RAW       old primary to new   a client's packet that still arrived here
 *     +8  length | 12 packet with its virtio_net_hdr
 *
 * A body that is cut short, names a record out of range or has an unknown type is refused as a
 * whole: the caller closes the channel it came from.
 */
import { BODY_SIZE, PROGRESS_PER_MESSAGE } from "./limits";
import { count, Counter, noteInput, Role, state } from "./state";
import {
  at,
  Connection,
  Flag,
  has,
  indexOf,
  isAccepted,
  Leg,
  Phase,
  Reason,
} from "./flow/connection";
import { comparisonOf, Point } from "./flow/comparison";
import { inputLog, takeDirty } from "./flow/lifecycle";
import { read } from "./stream/chain";
import { node } from "./stream/ranges";
import { digestValue } from "./stream/digest";
import { canTell, toldEnd, toldValue } from "./segment/comparing";
import { isGone, outputEnd } from "./segment/ending";
import { readUpTo } from "./segment/lag";
import { shownOctets } from "./segment/recovery";

export const enum RecordType {
  Open = 1,
  Data,
  Progress,
  Close,
  Report,
  Fail,
  Raw,
  Mark,
  Cut,
}

/** Why a record went. */
export const enum CloseHow {
  /** Both sides had finished. */
  Normal = 0,
  ClientReset,
  ServerReset,
  /** Replaced by a new connection on the same ports, or never completed. */
  Dropped,
}

export const OPEN_SIZE: u32 = 64;
export const AGAIN_SIZE: u32 = 92;
export const DATA_HEAD: u32 = 16;
/** The same with a FIN. */
export const FIN_HEAD: u32 = 20;
export const PROGRESS_SIZE: u32 = 56;
export const CLOSE_SIZE: u32 = 12;
export const REPORT_SIZE: u32 = 28;
export const FAIL_SIZE: u32 = 20;
export const RAW_HEAD: u32 = 12;
export const MARK_SIZE: u32 = 24;
export const CUT_SIZE: u32 = 20;
/** A flag of FAIL: the standby's server alone does not go on. */
export const FROM_LOG: u32 = 128;

/** What a record of `size` octets takes of the body. */
function padded(size: u32): u32 {
  return (size + 3) & ~3;
}

/** The body has room for a record of `size` octets. */
function fits(size: u32): bool {
  return state().bodyUsed + padded(size) <= BODY_SIZE;
}

/** Reserves `size` octets of the body and writes the head; 0 when the body is full. */
function begin(c: Connection | null, type: RecordType, flags: u32, size: u32): usize {
  const s = state();
  if (!fits(size)) return 0;
  const to = s.body + s.bodyUsed;
  s.bodyUsed += padded(size);
  store<u8>(to, <u8> type);
  store<u8>(to, <u8> flags, 1);
  store<u16>(to, c !== null ? <u16> c.generation : 0, 2);
  store<u32>(to, c !== null ? indexOf(c) : 0, 4);
  count(Counter.Replicated);
  return to;
}

/** Announces a connection to the standby, or only asks; false when the body is full. */
export function writeOpen(c: Connection, asks: bool): bool {
  const to = begin(c, RecordType.Open, asks ? 1 : 0, OPEN_SIZE);
  if (!to) return false;
  fillOpen(c, to);
  if (asks) return true;
  noteInput();
  c.toldIn = state().segment;
  state().openSeq = state().messageSeq;
  return true;
}

/** Tells of a connection from its beginning, for who may know nothing of it; false when the body is full. */
export function writeAgain(c: Connection): bool {
  const s = state();
  if (s.bodyUsed + AGAIN_SIZE + MARK_SIZE > BODY_SIZE) return false;
  const to = begin(c, RecordType.Open, 2, AGAIN_SIZE);
  if (!to) return false;
  fillOpen(c, to);
  store<u32>(to, c.tsClock + s.now, 48);
  store<u32>(to, c.cliAck, 64);
  store<u32>(to, c.sndShown, 68);
  store<u64>(to, shownOctets(c), 72);
  store<u32>(to, toldEnd(c), 80);
  store<u64>(to, toldValue(c), 84);
  // Its digest begins there, so nobody can do without.
  if (comparisonOf(c).point != Point.None) writeMark(c);
  return true;
}

function fillOpen(c: Connection, to: usize): void {
  memory.copy(to + 8, changetype<usize>(c), 16);
  store<u32>(to, c.ports, 24);
  store<u32>(to, c.irs, 28);
  store<u32>(to, c.iss, 32);
  store<u16>(to, <u16> c.cliMss, 36);
  store<u16>(to, <u16> c.srvMss, 38);
  store<u8>(to, <u8> c.cliWs, 40);
  store<u8>(to, <u8> c.srvWs, 41);
  store<u8>(to, <u8> c.synFlags, 42);
  store<u8>(to, <u8> (c.flags & 7), 43);
  store<u32>(to, c.synTs, 44);
  store<u32>(to, c.tsShown, 48);
  store<u32>(to, c.synWindow, 52);
  store<u32>(to, c.edgeShown - c.irs - 1, 56);
  store<u32>(to, state().now, 60);
}

/** The body has room for so many octets of a client's stream, and its FIN. */
export function hasRoomFor(length: u32): bool {
  return fits(FIN_HEAD + length);
}

/** Hands a piece of the client's stream to the standby; false when the body is full. */
export function writeData(c: Connection, seq: u32, from: usize, length: u32, fin: bool): bool {
  const to = beginData(c, seq, length, fin);
  if (!to) return false;
  memory.copy(to, from, length);
  noteInput();
  return true;
}

/** Hands over a piece of the client's stream from our log, which somebody may have already. */
export function writeLogged(c: Connection, seq: u32, length: u32, fin: bool): bool {
  const to = beginData(c, seq, length, fin);
  if (!to) return false;
  read(inputLog(c), seq, to, length);
  return true;
}

function beginData(c: Connection, seq: u32, length: u32, fin: bool): usize {
  const head = fin ? FIN_HEAD : DATA_HEAD;
  const to = begin(c, RecordType.Data, fin ? 1 : 0, head + length);
  if (!to) return 0;
  store<u32>(to, seq, 8);
  store<u32>(to, length, 12);
  if (fin) store<u32>(to, c.finAck, 16);
  return to + head;
}

/**
 * Hands what came early, and lies in our log, to a standby that has only its kernel's word for it;
 * false when the body has no room for all of it and for the CLOSE that must follow then.
 */
export function writeEarly(c: Connection): bool {
  const s = state();
  for (let index = c.range; index; index = node(index).next) {
    const n = node(index);
    const length = n.end - n.start;
    if (length > BODY_SIZE >> 1 || s.bodyUsed + length > BODY_SIZE >> 1) return false;
    if (!writeLogged(c, n.start, length, false)) return false;
    noteInput();
  }
  return true;
}

/** Tells the standby that a record is gone, with a number as above; false when the body is full. */
export function writeClose(c: Connection, how: CloseHow, seq: u32): bool {
  const to = begin(c, RecordType.Close, how, CLOSE_SIZE);
  if (!to) return false;
  store<u32>(to, seq, 8);
  // What its client is told from now on, nobody could go on from who has not heard this.
  if (state().logMode && how == CloseHow.Dropped) noteInput();
  return true;
}

/** Tells of a place where the log can be cut; the body must have room. */
export function writeMark(c: Connection): void {
  const x = comparisonOf(c);
  const to = begin(c, RecordType.Mark, 0, MARK_SIZE);
  store<u32>(to, x.cutIn, 8);
  store<u32>(to, x.cutOut, 12);
  store<u64>(to, x.cutValue, 16);
}

/** Tells that the log is cut there; the body must have room. */
export function writeCut(c: Connection): void {
  const x = comparisonOf(c);
  const to = begin(c, RecordType.Cut, 0, CUT_SIZE);
  store<u32>(to, x.cutIn, 8);
  store<u32>(to, x.cutOut, 12);
  store<u32>(to, c.sndShown, 16);
}

/** Tells the primary that a connection is not protected here. */
export function writeFail(index: u32, generation: u32, reason: u32): void {
  const to = begin(null, RecordType.Fail, reason, FAIL_SIZE);
  if (!to) return;
  store<u16>(to, <u16> generation, 2);
  store<u32>(to, index, 4);
  memory.fill(to + 8, 0, FAIL_SIZE - 8);
}

/** The same for outputs that differ before `seq`; with `FROM_LOG` the log is kept. */
export function writeDiverged(c: Connection, seq: u32, flags: u32 = 0): void {
  const to = begin(c, RecordType.Fail, Reason.Diverged | flags, FAIL_SIZE);
  if (!to) return;
  store<u32>(to, seq, 8);
  store<u32>(to, comparisonOf(c).sameAt, 12);
  store<u32>(to, 0, 16);
}

/** Tells the primary that our server stands still at `seq` of a stream, and for how long. */
export function writeHang(c: Connection, seq: u32, stoodMs: u32, reads: bool): void {
  const to = begin(c, RecordType.Fail, Reason.StandbyHangs, FAIL_SIZE);
  if (!to) return;
  store<u32>(to, seq, 8);
  store<u32>(to, stoodMs, 12);
  store<u32>(to, reads ? 1 : 0, 16);
}

/** Tells the primary that our server accepts what its own kernel refused. */
export function writeAccept(c: Connection): void {
  begin(c, RecordType.Report, 2, REPORT_SIZE);
}

/** Hands a client's packet that arrived here to the new primary. */
export function writeRaw(packet: usize, length: u32): void {
  const to = begin(null, RecordType.Raw, 0, RAW_HEAD + length);
  if (!to) return;
  store<u32>(to, length, 8);
  memory.copy(to + RAW_HEAD, packet, length);
  count(Counter.Relayed);
}

/** Writes the progress (primary) or the reports (standby) that are due, each record once. */
export function flushDirty(): void {
  const s = state();
  for (let i: u32 = 0; i < PROGRESS_PER_MESSAGE && s.dirtyHead; i++) {
    if (s.bodyUsed + PROGRESS_SIZE > BODY_SIZE) return;
    const c = at(takeDirty() - 1);
    if (c.phase == Phase.Free) continue;
    if (s.role == Role.Primary) {
      if (!has(c, Flag.Hot)) continue;
      const end = outputEnd(c);
      const tells = canTell(c, end);
      // In log mode an end that is held may be the server's death, after which another one goes on.
      const ends = has(c, Flag.ServerFin) && !has(c, Flag.Logged | Flag.FinHeld);
      const flags = (c.phase >= Phase.Open ? 1 : 0) | (ends ? 2 : 0) |
        (isGone(c) ? 4 : 0) | (tells ? 8 : 0) | (c.toldAgainIn ? 0 : 16);
      const to = begin(c, RecordType.Progress, flags, PROGRESS_SIZE);
      store<u32>(to, c.cliAck, 8);
      store<u32>(to, c.cliWnd, 12);
      store<u32>(to, c.cliTs, 16);
      store<u32>(to, c.tsClock, 20);
      store<u32>(to, c.ackShown, 24);
      store<u32>(to, c.edgeShown, 28);
      store<u32>(to, c.sndShown, 32);
      store<u32>(to, s.now, 36);
      store<u32>(to, end, 40);
      store<u64>(to, tells ? digestValue(comparisonOf(c)) : 0, 44);
      store<u32>(to, readUpTo(c), 52);
    } else if (s.role == Role.Standby) {
      c.edgeReported = c.legAck + s.logLimit;
      const isLost = c.leg >= Leg.Dead || has(c, Flag.Diverged);
      const flags = (has(c, Flag.ServerFin) ? 1 : 0) | (isAccepted(c) ? 4 : 0) |
        (c.reason == Reason.Joining || isLost ? 0 : 8) | (c.warm ? 16 : 0);
      const to = begin(c, RecordType.Report, flags, REPORT_SIZE);
      store<u32>(to, c.rcvNxt, 8);
      store<u32>(to, c.edgeReported, 12);
      store<u32>(to, outputEnd(c), 16);
      store<u32>(to, comparisonOf(c).sameAt, 20);
      store<u32>(to, readUpTo(c), 24);
    }
  }
}
