/**
 * telling.ts - telling of a connection once more, from its first octet
 *
 * Theory of operation
 * A standby that comes when connections live already (a repaired host, say) is told of each of them, in the
 * background: an OPEN that carries what has become of it since, its input log piece by piece between the
 * messages of new traffic, then its progress. Its new octets go to the standby too from the OPEN on. It is
 * Joining until the standby confirms the progress after the last piece; one that becomes primary before it
 * has that lets it go (takeover.ts), as its client will not say the missing octets again.
 *
 * In hot mode the standby's server is played the log by the feeder, as it would have been from the first. It
 * has to come as far as the primary had told when all was told, and to write the same; only then the
 * standby confirms. Servers are not judged by such a connection before that. What a client has said is
 * kept for this as far as `rejoin_limit` goes (Kept), at both hosts; of whom more was said, or who was sent
 * more than AHEAD_MAX, stays unprotected.
 *
 * Telling again, to a log on disk:
 * A log on disk can only be cut off at its old end, so one connection that lives for long would keep all
 * that came after its beginning. Instead it is told of again, in the messages of today: an OPEN that
 * carries what has become of it since, then its input log piece by piece, between messages of new
 * traffic, then its progress. Who still has the older messages takes the OPEN for known and the rest for
 * repetition; who has them no longer takes it for the beginning. So at every moment either is enough.
 *
 *   | old segments: OPEN DATA ...  | ... OPEN again | DATA 1 .. | new DATA | .. DATA n | PROGRESS | ...
 *   '- needed no more once all that lies before a segment was told again ------------------'
 *
 * A standby with a log on disk of its own hears all that too, and may forget its older messages as well
 * once it has the PROGRESS, which says so (`toldAgainIn`). Telling may end in the midst of one, as a standby comes or
 * goes, or the primary dies: until somebody has told of that one to its end, no PROGRESS says so.
 *
 * Telling again, to a replica further down the chain: it gets what the standby is told, handed on. When it has
 * come, `retell()` begins a new segment, so that all is told again for which the OPEN was told before; the standby
 * takes it for repetition, as above, and its connections stay protected.
 *
 * Limits: one record at a time, in their order; PIECE octets of it in one DATA.
 */
import { AHEAD_MAX, BODY_SIZE } from "../limits";
import { Divergence, state } from "../state";
import { after, before } from "../wire/bytes";
import {
  at,
  Connection,
  Flag,
  has,
  isAccepted,
  isBeingTold,
  isStored,
  Phase,
  Reason,
} from "../flow/connection";
import { comparisonOf } from "../flow/comparison";
import { markDirty } from "../flow/lifecycle";
import { DATA_HEAD, writeAgain, writeLogged } from "../records";
import { node } from "../stream/ranges";
import { comparedEnd, sameEnd } from "./comparing";
import { shownOctets } from "./recovery";

const PIECE: u32 = 65536;
/** Room for an OPEN and for a piece that is worth its head. */
const ROOM_MIN: u32 = 512;

function isOpen(c: Connection): bool {
  return c.phase >= Phase.Half && c.phase < Phase.Closed;
}

function isDue(c: Connection, below: u32): bool {
  if (!isOpen(c) || !isStored(c)) return false;
  if (has(c, Flag.Hot)) {
    return c.toldIn < below || isBeingTold(c) || (state().bringing != 0 && isJoining(c));
  }
  return state().bringing != 0 && canBeBrought(c);
}

function canBeBrought(c: Connection): bool {
  // One that is longer than the standby's log may be stays unprotected.
  if (has(c, Flag.Logged)) return !isPastPeer(c);
  const ends = Flag.ResetHeld | Flag.Diverged;
  if (!isAccepted(c) || (c.flags & ends) != 0 || c.reason == Reason.Diverged) return false;
  const isCompared = has(c, Flag.Digested) || state().divergence == Divergence.Ignore;
  return isCompared && shownOctets(c) <= AHEAD_MAX;
}

/** Hot mode: says why one that lost its standby, or never had one, stays unprotected. */
function noteNotKept(c: Connection): void {
  const s = state();
  const isLost = c.reason == Reason.NoStandby || c.reason == Reason.StandbyLost;
  const isKept = c.phase == Phase.Free || isStored(c);
  if (s.bringing && !s.logMode && !isKept && isLost) c.reason = Reason.NotKept;
}

function isJoining(c: Connection): bool {
  return c.reason == Reason.Joining;
}

function isPastPeer(c: Connection): bool {
  return after(c.rcvNxt, c.irs + 1 + state().peerLogLimit);
}

/** A standby is there that lacks connections: those that are logged or kept are to be told of. */
export function startBringing(): void {
  const s = state();
  s.bringing = s.logMode != 0 || s.keepLimit != 0 ? 1 : 0;
  s.tellNext = 0;
  s.telling = 0;
}

/** All is to be told again: returns the segment before which its OPEN lies, for `tellAgain()`. */
export function retell(): u32 {
  const s = state();
  s.segment++;
  s.tellNext = 0;
  s.telling = 0;
  return s.segment;
}

/** The standby is gone, with what it was told. */
export function stopBringing(): void {
  const s = state();
  s.bringing = 0;
  s.tellNext = 0;
  s.telling = 0;
}

/** Connections that the standby has not got whole. */
export function joining(): u32 {
  const s = state();
  let number: u32 = 0;
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase != Phase.Free && has(c, Flag.Hot) && isJoining(c)) number++;
  }
  return number;
}

/** Standby: connections that were told late, and that its server is yet to come to. */
export function unsettled(): u32 {
  const s = state();
  let number: u32 = 0;
  for (let i: u32 = 0; i < s.highWater; i++) {
    if (at(i).phase != Phase.Free && isJoining(at(i))) number++;
  }
  return number;
}

/** A standby joins beside others who keep what they are told: it has none of the connections yet. */
export function markJoining(): void {
  const s = state();
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (!isOpen(c) || !isStored(c) || !has(c, Flag.Hot)) continue;
    if (c.reason == Reason.None) c.reason = Reason.Joining;
  }
}

/** Who keeps them has all of them now: a disk says nothing itself. */
export function endJoining(): void {
  const s = state();
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase != Phase.Free && has(c, Flag.Hot) && isJoining(c)) c.reason = Reason.None;
  }
}

/**
 * Tells of records that a new standby has not been told of, and again of those that began before segment
 * `below`, in about `octets`; true when more remain.
 */
export function tellAgain(below: u32, octets: u32): bool {
  const s = state();
  const wanted = s.bodyUsed + octets;
  const stop = wanted < BODY_SIZE >> 1 ? wanted : BODY_SIZE >> 1;
  for (; s.tellNext < s.highWater; s.tellNext++) {
    const c = at(s.tellNext);
    if (s.telling && (!isBeingTold(c) || !isDue(c, below))) s.telling = 0;
    // The standby could not keep it.
    if (s.telling && !has(c, Flag.Hot)) {
      s.telling = 0;
      continue;
    }
    if (!isDue(c, below)) {
      noteNotKept(c);
      continue;
    }
    if (!s.telling) {
      if (s.bodyUsed + ROOM_MIN > stop || !writeAgain(c)) return true;
      s.telling = 1;
      if (!has(c, Flag.Hot)) follow(c);
      s.tellGeneration = c.generation;
      c.toldAgainIn = s.segment;
      s.tellSeq = c.irs + 1;
    }
    if (!tellLog(c, stop)) return true;
    s.telling = 0;
    c.toldIn = c.toldAgainIn;
    c.toldAgainIn = 0;
    markDirty(c);
  }
  s.tellNext = 0;
  s.bringing = 0;
  return false;
}

/**
 * The connection that is being told of was cut (cutting.ts): who knows only what was told of it so far forgets it,
 * and is told of it from where it begins now. The body must have room.
 */
export function tellAnew(c: Connection): void {
  const s = state();
  writeAgain(c);
  c.toldAgainIn = s.segment;
  s.tellSeq = c.irs + 1;
}

/** From here on the standby is told what the client says. */
function follow(c: Connection): void {
  c.flags |= Flag.Hot;
  c.reason = Reason.Joining;
  c.warm = 0;
  c.cold = Reason.None;
  c.peerNxt = c.irs + 1;
  c.peerEdge = c.irs + 1 + state().peerLogLimit;
  // Its server has yet to say anything.
  c.flags &= ~(<u32> (Flag.PeerFin | Flag.PeerGone));
  c.peerSnd = c.iss + 1;
  c.peerRead = c.irs + 1;
  comparisonOf(c).peerSame = c.iss + 1;
}

/** Standby: what was to be told of a connection has been told. */
export function noteBrought(c: Connection): void {
  c.flags |= Flag.Brought;
  // Up to here its server has to come; not needed for anything else before we are primary.
  c.saidMost = comparedEnd(c);
  if (has(c, Flag.Logged)) settleJoin(c);
}

/** Standby: a connection that was brought counts as ours from the octet on where both servers agree. */
export function settleJoin(c: Connection): void {
  if (!has(c, Flag.Brought)) return;
  if (!has(c, Flag.Logged)) {
    if (!isAccepted(c) || before(sameEnd(c), c.saidMost)) return;
  }
  c.reason = Reason.None;
  c.writeMs = 0;
  c.readMs = 0;
  markDirty(c);
}

/** Tells what is left of a log, as far as it fits; false when more remains. */
function tellLog(c: Connection, stop: u32): bool {
  const s = state();
  const ended = has(c, Flag.ClientFin) && c.rcvNxt == c.finSeq + 1;
  const dataEnd = ended ? c.finSeq : c.rcvNxt;
  while (true) {
    let end = dataEnd;
    if (!before(s.tellSeq, dataEnd)) {
      // In order it is told; what came early, or the end, is left.
      let index = c.range;
      while (index && !after(node(index).end, s.tellSeq)) index = node(index).next;
      if (!index) break;
      if (before(s.tellSeq, node(index).start)) s.tellSeq = node(index).start;
      end = node(index).end;
    }
    if (s.bodyUsed + ROOM_MIN > stop) return false;
    const room = stop - s.bodyUsed - DATA_HEAD;
    let length = end - s.tellSeq;
    if (length > room) length = room;
    if (length > PIECE) length = PIECE;
    if (!writeLogged(c, s.tellSeq, length, false)) return false;
    s.tellSeq += length;
  }
  return !has(c, Flag.ClientFin) || writeLogged(c, c.finSeq, 0, true);
}
