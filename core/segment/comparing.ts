/**
 * comparing.ts - do both servers write the same? (P5)
 *
 * Theory of operation
 * The primary digests what its server writes (stream/digest.ts) and tells the digest at its end with all
 * other progress, in the message that leaves before the octets do. The standby compares as soon as its own
 * server is there. Both go over each octet once, in order: what its kernel repeats is not counted twice.
 *
 *   standby's server behind    the mark waits; octets are digested as they come, up to each mark
 *   standby's server ahead     octets are parked anyway, as the client lacks them, and digested when told
 *
 * A difference makes the connection unprotected (`Reason.Diverged`), whatever comes after. The policy:
 *   ignore       nothing is digested; outputs are spliced as they come
 *   unprotect    the standby forgets the connection
 *   reset        the standby keeps its record, and resets the client when it takes the service over
 * Where whole logs are kept the standby goes on with the log alone: who takes over plays it to a server once more,
 * and resets the client if that differs, too.
 *
 * At a takeover the client may hold anything that the old primary has told of, so nothing that lies past
 * `sameAt` leaves before our server has come as far as that and the digests agree: the connection is
 * Unproven, fed and parked like a standby's. In step that takes the server's next segment, and one
 * that waits for an ACK gets it from us (feeder.ts). One whose
 * server ends or does not come there within PROVE_MS is reset.
 *
 * What the old primary sent and nobody told us of (its last message was lost with its host) cannot be
 * compared. Servers that never diverged are taken to be what they have always been: such clients are only
 * counted. Once a connection of this service has diverged, a takeover asks each client first where it
 * stands (Unheard), and resets those that have such octets.
 *
 * Limits: MARKS in comparison.ts. Octets that are not digested and cannot be parked are treated as if
 * they had been lost on the way from our own kernel, which repeats them: else they would never be compared.
 * An Unproven connection whose kernel waits for an ACK of such octets is reset after PROVE_MS.
 */
import { LINGER_MS, PROVE_MS } from "../limits";
import { count, counted, Counter, Divergence, Role, state } from "../state";
import { after, before, earlier, later } from "../wire/bytes";
import { ACK, RST } from "../wire/packet";
import { Connection, Flag, has, isAccepted, isTold, Leg, Phase, Reason } from "../flow/connection";
import {
  Comparison,
  comparisonOf,
  lastValue,
  markSeq,
  markValue,
  Point,
  pushMark,
  takeMark,
} from "../flow/comparison";
import { dropOctets, markDirty, markPump, parkedFlight, startTimer } from "../flow/lifecycle";
import { Finding, noteFinding } from "../judgement";
import { CloseHow, writeClose } from "../records";
import { placeOf, seek } from "../stream/chain";
import { digestValue } from "../stream/digest";
import { passPoint, returnToBase, takeOutput, takePoint } from "./cutting";
import { failLeg, giveUpServer, owes } from "./feeder";
import {
  complete,
  hasRoom,
  make,
  NET,
  probeClient,
  resetServer,
  shownAck,
  toClient,
} from "./output";

/** How often a client is reset that does not say whether it believes it. */
const RESETS: u32 = 5;

/** The next octet that the digest lacks. */
function digestEnd(x: Comparison): u32 {
  return x.base + x.at;
}

/** Compares the connection's output from its first octet on, unless the policy is not to. */
export function startComparing(c: Connection): void {
  if (state().divergence == Divergence.Ignore) return;
  const x = comparisonOf(c);
  c.flags |= Flag.Digested;
  x.point = Point.None;
  returnToBase(c, x);
  x.toldAt = c.iss + 1;
  x.sameAt = c.iss + 1;
  x.peerSame = c.iss + 1;
  x.markCount = 0;
}

/**
 * Log mode: our server is gone. The next one is to write the same, and nothing leaves before it has.
 */
export function startOver(c: Connection): void {
  if (!has(c, Flag.Digested)) return;
  const x = comparisonOf(c);
  const isPrimary = state().role == Role.Primary;
  if (!has(c, Flag.Unproven)) {
    // A standby's server may not have come to what was told last.
    const isBehind = !isPrimary && x.markCount != 0;
    const value = isBehind ? lastValue(x) : digestValue(x);
    if (!isBehind) x.toldAt = digestEnd(x);
    x.markCount = 0;
    if (x.toldAt != c.iss + 1) {
      pushMark(x, x.toldAt, value);
      if (isPrimary) c.flags |= Flag.Unproven;
    }
  }
  returnToBase(c, x);
  x.sameAt = c.iss + 1;
}

/** Log mode: octets of a server that is far behind, from SND.NXT on (`goAhead()`). */
export function digestAhead(c: Connection, from: usize, length: u32): void {
  if (has(c, Flag.Digested)) takeOutput(c, comparisonOf(c), from, length);
}

/** Primary: our server has written octets that start at or before SND.NXT. */
export function digestOutput(c: Connection, seq: u32, from: usize, length: u32): void {
  const x = comparisonOf(c);
  const known = digestEnd(x) - seq;
  if (known < length) takeOutput(c, x, from + known, length - known);
}

/** Primary: octets of our server behind what was parked, once it has come as far as the old primary had told. */
export function digestProven(c: Connection, seq: u32, from: usize, length: u32): void {
  if (has(c, Flag.Unproven)) return;
  digestParked(c);
  digestOutput(c, seq, from, length);
}

/** True when the primary can tell the digest of all that its server has written, to `end`. */
export function canTell(c: Connection, end: u32): bool {
  return has(c, Flag.Digested) && !has(c, Flag.Unproven) && digestEnd(comparisonOf(c)) == end;
}

/** Up to where the digest of `toldValue()` goes; ISS + 1 for none. */
export function toldEnd(c: Connection): u32 {
  const x = comparisonOf(c);
  if (!has(c, Flag.Digested)) return c.iss + 1;
  return has(c, Flag.Unproven) ? x.toldAt : digestEnd(x);
}

/** The digest of output that another server has to match: ours, or what ours has to match itself. */
export function toldValue(c: Connection): u64 {
  const x = comparisonOf(c);
  return has(c, Flag.Unproven) && x.markCount ? lastValue(x) : digestValue(x);
}

/** A standby is told again, at once, what it would have been told piece by piece. */
export function takeTold(c: Connection, seq: u32, value: u64): void {
  if (!has(c, Flag.Digested) || seq == c.iss + 1) return;
  const x = comparisonOf(c);
  x.toldAt = seq;
  x.markCount = 0;
  pushMark(x, seq, value);
}

/** True when the standby has found its server's output to be ours up to `end`, or nobody compares. */
export function isSame(c: Connection, end: u32): bool {
  return !has(c, Flag.Digested) || !before(comparisonOf(c).peerSame, end);
}

/** Standby: the primary's digest of its server's output up to `seq`. */
export function noteTold(c: Connection, seq: u32, value: u64): void {
  if (!has(c, Flag.Digested) || c.leg >= Leg.Dead) return;
  const x = comparisonOf(c);
  if (!after(seq, x.toldAt)) return;
  x.toldAt = seq;
  if (has(c, Flag.Logged) && (!isAccepted(c) || c.ahead)) {
    // No server is here yet to reach any of them, so the last is enough.
    x.markCount = 0;
    pushMark(x, seq, value);
    return;
  }
  if (before(seq, digestEnd(x))) {
    // We have been primary, and further: the other one has compared that with what we told.
    x.sameAt = seq;
    return;
  }
  pushMark(x, seq, value);
  compareParked(c, x);
}

/** Standby: an answer of the primary's server ends before `output`, and its digest begins anew there. */
export function noteMark(c: Connection, input: u32, output: u32, value: u64): void {
  if (!has(c, Flag.Digested) || c.leg >= Leg.Dead) return;
  if (!takePoint(c, input, output, value)) failLeg(c, Reason.StandbyDiffers);
  else if (!has(c, Flag.Logged) || (isAccepted(c) && !c.ahead)) compareParked(c, comparisonOf(c));
}

/** Digests what is parked as far as the primary has told, and compares on the way. */
function compareParked(c: Connection, x: Comparison): void {
  while (hasMark(x)) {
    const mark = nextMark(x);
    takeParked(c, x, earlier(mark, c.parkEnd));
    if (digestEnd(x) != mark || !check(c, x)) return;
  }
}

/** Takes what is parked, up to `end`, into our digest. */
function takeParked(c: Connection, x: Comparison, end: u32): void {
  const chain = parkedFlight(c);
  while (before(digestEnd(x), end)) {
    const start = digestEnd(x);
    const part = seek(chain, start, end - start);
    if (!part) return;
    takeOutput(c, x, placeOf(chain, start), part);
  }
}

/** True when there is a digest that ours has yet to match. */
function hasMark(x: Comparison): bool {
  return x.markCount != 0 || x.point == Point.Ahead;
}

/** True when the next of them is the Point's. */
function isPointNext(x: Comparison): bool {
  return x.point == Point.Ahead && (!x.markCount || !after(x.cutOut, markSeq(x)));
}

/** Where the next of them stands; there must be one. */
function nextMark(x: Comparison): u32 {
  return isPointNext(x) ? x.cutOut : markSeq(x);
}

/**
 * Standby, or Unproven: octets of our server, before they are parked. They start at or before SND.NXT.
 * False when they show that the servers differ.
 */
export function compareOutput(c: Connection, seq: u32, from: usize, length: u32): bool {
  const x = comparisonOf(c);
  while (hasMark(x)) {
    const mark = nextMark(x);
    const start = digestEnd(x);
    const end = earlier(mark, seq + length);
    if (before(start, end)) takeOutput(c, x, from + (start - seq), end - start);
    if (digestEnd(x) != mark) return true;
    if (!check(c, x)) return false;
  }
  return true;
}

/** True when nothing before `seq` has to be seen again to be compared. */
export function isDigested(c: Connection, seq: u32): bool {
  return !after(seq, digestEnd(comparisonOf(c)));
}

/** Our digest has come to the first mark. */
function check(c: Connection, x: Comparison): bool {
  const seq = nextMark(x);
  const isPoint = isPointNext(x);
  if (!(isPoint ? passPoint(x) : markValue(x) == digestValue(x))) {
    diverge(c, seq);
    return false;
  }
  if (!isPoint) takeMark(x);
  // The primary waits for that to cut its log.
  if (isPoint && state().role == Role.Standby) markDirty(c);
  x.sameAt = seq;
  settleProof(c, x);
  return true;
}

/** All that the client may have has been compared: its connection goes on. */
function settleProof(c: Connection, x: Comparison): void {
  if (!has(c, Flag.Unproven) || has(c, Flag.Unheard) || after(x.toldAt, x.sameAt)) return;
  c.flags &= ~(<u32> Flag.Unproven);
  markPump(c);
}

/** After a takeover the client says that it has nothing beyond what we were told of. */
export function noteHeard(c: Connection): void {
  c.flags &= ~(<u32> Flag.Unheard);
  settleProof(c, comparisonOf(c));
}

/** The servers differ before `seq`, or ours will never come there. */
function diverge(c: Connection, seq: u32): void {
  // Both sides have finished: the client has all of it, and may have forgotten the connection.
  if (c.phase == Phase.Closed) return;
  const s = state();
  if (c.reason == Reason.Joining && s.role == Role.Standby) {
    // Its own past is what this server does not repeat; nobody has relied on it yet.
    giveUpServer(c, Reason.ReplayDiffers);
    return;
  }
  count(Counter.Diverged);
  if (s.role == Role.Standby) {
    giveUpServer(c, Reason.Diverged, seq);
    // Where whole logs are kept, another server may still say the same.
    if (s.divergence == Divergence.Reset && !has(c, Flag.Logged)) c.flags |= Flag.Diverged;
    return;
  }
  giveUp(c, seq);
}

/** Primary: the client is to be reset, as its next octets, or those it has, are not ours before `seq`. */
function giveUp(c: Connection, seq: u32): void {
  comparisonOf(c).toldAt = seq;
  c.flags |= Flag.Diverged;
  markPump(c);
}

/** Our server has ended its stream before the old primary's did, or does not come as far. */
export function checkUnproven(c: Connection): void {
  if (!has(c, Flag.Unproven) || has(c, Flag.Diverged)) return;
  const told = comparisonOf(c).toldAt;
  // In log mode the server may still have to be started, and all of it to be written; and its end may be its death.
  const late = state().now - c.takenAtMs > PROVE_MS;
  const ended = has(c, Flag.ServerFin) && before(c.srvFin, told);
  if (!has(c, Flag.Logged) && (late || ended)) diverge(c, told);
  else if (has(c, Flag.Unheard) && !has(c, Flag.Timer)) probeClient(c);
}

/** Log mode: our server has ended before it came to where the client is, or to what was told. */
export function endsEarly(c: Connection): bool {
  if (before(c.srvFin + 1, c.sndShown)) return true;
  return has(c, Flag.Unproven) && before(c.srvFin, comparisonOf(c).toldAt);
}

/** The same of one that lives, so it has not written what the one before it had. */
export function giveUpEnded(c: Connection): void {
  c.flags &= ~(<u32> Flag.FinHeld);
  if (before(c.srvFin + 1, c.sndShown)) failLeg(c, Reason.ReplayDiffers);
  else diverge(c, comparisonOf(c).toldAt);
}

/** What may be sent to the client of all that is parked: its end. */
export function provenEnd(c: Connection): u32 {
  if (!has(c, Flag.Unproven)) return c.parkEnd;
  if (has(c, Flag.Logged)) return c.parkBase;
  return earlier(later(comparisonOf(c).sameAt, c.parkBase), c.parkEnd);
}

/** Standby to primary: what has been told and not compared yet must be, before anything past it leaves. */
export function adoptOutput(c: Connection, peerStays: bool): void {
  if (!has(c, Flag.Digested)) return;
  const x = comparisonOf(c);
  // In log mode all of the stream lies between the two, and may be longer than numbers reach.
  const isOwed = has(c, Flag.Logged) ? x.toldAt != x.sameAt : after(x.toldAt, x.sameAt);
  if (isOwed) c.flags |= Flag.Unproven;
  // A peer that stays has told all.
  if (!peerStays && counted(Counter.Diverged) && c.phase >= Phase.Open) {
    c.flags |= Flag.Unproven | Flag.Unheard;
  }
}

/** Octets from `seq` on that our server has yet to write until it is proven. */
export function unprovenAfter(c: Connection, seq: u32): u32 {
  const told = comparisonOf(c).toldAt;
  return after(told, seq) ? told - seq : 0;
}

/**
 * True when a primary keeps what its server says, as a standby does: until more has been compared, or in
 * order behind what the client lacks.
 */
export function isParking(c: Connection): bool {
  if (has(c, Flag.Unproven) || owes(c)) return true;
  return has(c, Flag.Digested | Flag.Fed) && c.parkBase != c.parkEnd;
}

/** The primary's digest covers all that its server has written: what is parked, too. */
export function digestParked(c: Connection): void {
  if (!has(c, Flag.Digested) || has(c, Flag.Unproven)) return;
  const x = comparisonOf(c);
  takeParked(c, x, c.parkEnd);
}

/** Standby: how far its server has to come to be where the primary's is, as far as was told. */
export function comparedEnd(c: Connection): u32 {
  return has(c, Flag.Digested) ? comparisonOf(c).toldAt : c.sndShown;
}

/** Standby: how far its server has come, and is the primary's. */
export function sameEnd(c: Connection): u32 {
  return has(c, Flag.Digested) ? comparisonOf(c).sameAt : c.sndNxt;
}

/** Primary to standby: what our server has written by now is for the new primary to compare. */
export function yieldOutput(c: Connection): void {
  if (!has(c, Flag.Digested)) return;
  if (has(c, Flag.Unproven)) {
    c.flags &= ~(<u32> (Flag.Unproven | Flag.Unheard));
    return;
  }
  const x = comparisonOf(c);
  x.toldAt = digestEnd(x);
  x.sameAt = x.toldAt;
  x.markCount = 0;
  // The new primary waits for our word that we have come there.
  if (x.point != Point.None) markDirty(c);
}

/**
 * After a takeover the client has acknowledged octets that nobody told us of, up to `ack`. True when the
 * connection cannot go on.
 */
export function noteUntold(c: Connection, ack: u32): bool {
  if (state().divergence == Divergence.Ignore || !after(ack, c.sndShown)) return false;
  c.sndShown = ack;
  count(Counter.Untold);
  if (!counted(Counter.Diverged)) return false;
  count(Counter.Diverged);
  giveUp(c, ack);
  return true;
}

/**
 * Ends a connection whose next octets are not what its client expects. Where the client stands we know
 * only roughly: it is asked, too, and `resetAgain()` takes its answer. With no room it is tried again.
 */
export function resetClient(c: Connection): void {
  if (c.phase == Phase.Closed) return;
  if (!hasRoom()) {
    markPump(c);
    return;
  }
  const x = comparisonOf(c);
  noteFinding(Finding.DivergedReset, c, x.toldAt, x.sameAt, state().now);
  if (isTold(c)) writeClose(c, CloseHow.ServerReset, 0);
  if (c.leg >= Leg.SynAck && c.leg != Leg.Dead) resetServer(c);
  dropOctets(c);
  c.reason = Reason.Diverged;
  c.flags |= Flag.ServerReset;
  c.flags &= ~(<u32> (Flag.Hot | Flag.Fed | Flag.Unproven | Flag.Digested));
  c.flags &= ~(<u32> (Flag.Unheard | Flag.FinHeld | Flag.ResetHeld));
  c.leg = Leg.Dead;
  c.phase = Phase.Closed;
  count(Counter.Closed);
  c.tries = 0;
  repeatReset(c);
}

/** Resets a client as often as LINGER_MS allows, or until it says that it knows; false when that is over. */
export function repeatReset(c: Connection): bool {
  if (!has(c, Flag.Diverged) || c.tries == RESETS) return false;
  const waitMs: u32 = LINGER_MS >>> (RESETS - c.tries++);
  startTimer(c, state().now + waitMs);
  if (!hasRoom()) return true;
  probeClient(c);
  const packet = make(c, NET, RST | ACK, later(c.sndShown, c.cliAck), shownAck(c), 0, 0);
  toClient(packet, complete(packet, 0, 65535));
  return true;
}

/** A client that is to be reset says something: by which number it will believe it, or that it knows. */
export function answerReset(c: Connection, flags: u32, ack: u32): void {
  if (flags & RST) c.tries = RESETS;
  if ((flags & (RST | ACK)) != ACK || !hasRoom()) return;
  const packet = make(c, NET, RST, ack, 0, 0, 0);
  toClient(packet, complete(packet, 0, 65535));
}
