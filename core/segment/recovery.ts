/**
 * recovery.ts - log mode: the server dies, another is started and brought to where the client is
 *
 * Theory of operation
 * In log mode the primary keeps each connection's input log from its first octet, although segments
 * pass directly. A server that is started anew can so be played everything that the one before it has
 * read, as a standby's is (feeder.ts); what it writes that the client has already is acknowledged
 * and dropped; then segments pass directly again, in other numbers.
 *
 *   direct ──detach()──> leg None ──replay()──> SynSent ──> SynAck ──> Open, fed ──caught up──> direct
 *                          ^ the client is answered by the record: its octets are acknowledged as far
 *                          │ as the window goes that it was shown, then by zero-window ACKs
 *                          └──detach(), when that server dies too
 *
 * A standby keeps the same logs and runs no server: its records are in leg None from the first, and
 * `promote()` leaves them there until `replay()`.
 *
 * Unless it is warm (a hot host of a service whose hosts keep whole logs): its server is played all of them by
 * `replay()` while it stands by, and follows as in hot mode. `promote()` goes on at once with the connections whose
 * server is where it has to be. Of others, whose server is behind, has died, or does not do as the primary's does
 * (`Connection.cold`), the log is left, and they are played to it once more. What a warm standby's server ends is no
 * finding: the caller looks whether it lives, as on a primary, and if not calls `detach()`.
 *
 * From `detach()` to `replay()` no SYN reaches a server. The one that connections leave may still accept:
 * a worker of it has its listener open yet, or its SYN-ACK is on the way here. Such a connection would be
 * nobody's when that worker ends, and its RST would look like one that the next server meant.
 *
 * Streams longer than 2^31 octets: the client's numbers tell nothing about how often they have gone
 * around, so the output position is counted in 64 bits. As long as a new server has further to write
 * than AHEAD_MAX, issDelta follows it, and its stream ends where the client's numbers say sndNxt is.
 *
 * Nothing leaves for the client before the new server has written what the old one did (comparing.ts); a
 * connection whose servers differ is reset.
 *
 * Connections that are not logged (`Reason` says why) end as their server's kernel says.
 */
import { AHEAD_MAX, BEHIND_MAX, HALF_OPEN_MS, WAITING_MS } from "../limits";
import { count, Counter, Role, state } from "../state";
import { after, before, later } from "../wire/bytes";
import { at, Connection, Flag, has, isAccepted, Leg, Phase, Reason } from "../flow/connection";
import {
  ackSoon,
  dropDisputed,
  dropLog,
  markDirty,
  markPump,
  parkFrom,
  startTimer,
  stopTimer,
} from "../flow/lifecycle";
import { comparedEnd, digestAhead, endsEarly, giveUpEnded, sameEnd, startOver } from "./comparing";
import { settleLastPoint } from "./cutting";
import { outputEnd, refuse, sendFin, sendReset } from "./ending";
import { giveUpServer } from "./feeder";
import { hasServersFin } from "./takeover";
import { hasRoom, resetServer } from "./output";

/** What its server had said of an end, which another may say otherwise. */
const ENDS: u32 = Flag.ServerFin | Flag.FinHeld | Flag.ResetHeld | Flag.Judged | Flag.PeerGone |
  Flag.Asked;

/** A client's SYN waits for the next server; one that signs its segments cannot be said by us. */
export function isWaiting(c: Connection): bool {
  return c.phase == Phase.Syn && !state().feeding && c.reason == Reason.None;
}

/**
 * Our server is dead or is to be replaced: logged connections leave it, as many as fit this pass. Its
 * sockets are reset, so that nothing more is heard of them. True when more remain.
 */
export function detach(): bool {
  const s = state();
  s.feeding = 0;
  s.probeAnswer = 0;
  s.probeTail = 0;
  // Whatever this server has ended, it did not mean.
  while (s.disputedHead) dropDisputed();
  while (s.detachNext < s.highWater) {
    if (!hasRoom()) return true;
    leave(at(s.detachNext));
    s.detachNext++;
  }
  s.detachNext = 0;
  return false;
}

/** The record of a connection leaves its server. */
export function leave(c: Connection): void {
  const s = state();
  // One that is to be reset needs no other server.
  if (has(c, Flag.Diverged)) return;
  if (c.phase == Phase.Free || !has(c, Flag.Logged)) {
    // A SYN that was not answered yet is said again to the next server.
    if (c.phase == Phase.Syn) c.flags &= ~(<u32> Flag.Asked);
    return;
  }
  const isStandby = s.role == Role.Standby;
  if (isAccepted(c)) {
    if (s.hint) settleLastPoint(c);
    startOver(c);
    // A standby is told.
    if (!isStandby) c.outShown = shownOctets(c);
    resetServer(c);
  }
  if (isStandby) {
    c.warm = 0;
    c.cold = Reason.None;
  }
  if (c.phase == Phase.Closed) {
    // Nothing but a late ACK may still be wanted, which the record gives.
    c.leg = Leg.None;
    dropLog(c);
    return;
  }
  stopTimer(c);
  // Of a standby's server no client has heard.
  if (isStandby) c.flags &= ~(<u32> Flag.ServerFin);
  arm(c);
  if (isStandby) {
    c.saidMost = comparedEnd(c);
    if (!s.warm) return;
    markDirty(c);
    markPump(c);
    return;
  }
  // What passed directly and was not acknowledged is in the log: nothing keeps us from saying so.
  if (after(c.rcvNxt, c.ackShown)) ackSoon(c);
}

/** Octets of output up to sndShown. */
export function shownOctets(c: Connection): u64 {
  if (!isAccepted(c)) return c.outShown;
  return c.bytesOut - c.bytesCut + c.ahead + <u64> <i64> <i32> (c.sndShown - c.sndNxt);
}

/** Makes the record ready for a new server, which knows nothing of the connection yet. */
export function arm(c: Connection): void {
  c.leg = Leg.None;
  c.tries = 0;
  // However soon the next server's FIN comes, a client that has this one's may know nothing more of us.
  if (hasServersFin(c)) c.flags |= Flag.EndHeard;
  c.flags = (c.flags & ~ENDS) | Flag.Fed | Flag.Taken;
  if (c.phase == Phase.Closing && !has(c, Flag.ClientFin)) c.phase = Phase.Open;
  c.saidMost = later(c.saidMost, later(c.sndShown, c.cliAck));
  c.takenAtMs = state().now;
  c.logFrom = c.irs + 1;
  c.legAck = c.logFrom;
  c.legNxt = c.logFrom;
  c.legEdge = c.logFrom;
  c.sndNxt = later(c.sndShown, c.cliAck);
  c.bytesOut = 0;
  c.bytesCut = 0;
  c.ahead = 0;
  c.tsDelta = 0;
  parkFrom(c, c.sndNxt);
}

/** A server listens: every record without one is played to it, those that clients wait for first. */
export function replay(): void {
  const s = state();
  s.feeding = 1;
  s.replayedAt = s.now;
  for (let turn = 0; turn < 2; turn++) {
    for (let i: u32 = 0; i < s.highWater; i++) {
      const c = at(i);
      if ((s.now - c.seenAt <= WAITING_MS) != (turn == 0)) continue;
      const isPlayed = has(c, Flag.Logged) && c.leg == Leg.None && isOpen(c);
      if (isPlayed || c.phase == Phase.Syn) markPump(c);
    }
  }
}

function isOpen(c: Connection): bool {
  return c.phase >= Phase.Half && c.phase < Phase.Closed;
}

/** The new server's SYN-ACK came: where its stream begins in the client's numbers. */
export function placeOutput(c: Connection, serverIss: u32): void {
  c.ahead = c.outShown > AHEAD_MAX ? c.outShown - AHEAD_MAX : 0;
  c.sndNxt = c.iss + 1 + <u32> c.ahead;
  c.issDelta = c.sndNxt - 1 - serverIss;
  if (!has(c, Flag.Logged)) return;
  count(Counter.Replayed);
  const s = state();
  // How long a standby waits its primary says.
  if (c.phase == Phase.Half && s.role == Role.Primary) startTimer(c, s.now + HALF_OPEN_MS);
}

/**
 * Octets came from a server that has far to go: they take no numbers of the client's. False when octets
 * before them were lost on the way, which its kernel will repeat.
 */
export function goAhead(c: Connection, seq: u32, from: usize, length: u32): bool {
  const known = c.sndNxt - seq;
  if (length <= known) return !after(seq, c.sndNxt) || !length;
  const written = <u64> (length - known);
  const passed = written < c.ahead ? written : c.ahead;
  digestAhead(c, from + known, <u32> passed);
  c.ahead -= passed;
  c.bytesOut += passed;
  c.issDelta -= <u32> passed;
  // What the server has to be told is acknowledged stands as much further back.
  c.legUna -= <u32> passed;
  markPump(c);
  return true;
}

/** Connections whose server is not yet where the client is; on a standby, of those that it was played last. */
export function behind(): u32 {
  const s = state();
  const isStandby = s.role == Role.Standby;
  let number: u32 = 0;
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (!has(c, Flag.Logged | Flag.Fed) || !isOpen(c)) continue;
    if (isStandby && (c.warm != 0 || c.cold || after(c.openedAt, s.replayedAt))) continue;
    number++;
  }
  return number;
}

/** Standby: whether our server goes on as the primary's does, and is where it has to be to go on alone. */
export function settleWarm(c: Connection): void {
  if (!isAccepted(c) || c.phase == Phase.Closed) return;
  if (<i32> (later(c.cliAck, c.sndShown) - c.sndNxt) > BEHIND_MAX) {
    // Further back its numbers would say nothing.
    giveUpServer(c, Reason.LegStalled);
  } else if (c.ahead) return;
  else if (has(c, Flag.ServerFin) && after(c.peerSnd, c.srvFin)) {
    giveUpServer(c, Reason.StandbyEnded);
  } else if (has(c, Flag.PeerFin) && after(outputEnd(c), c.peerSnd)) {
    giveUpServer(c, Reason.Diverged, c.peerSnd);
  } else if (!c.warm && c.reason != Reason.Joining && !before(sameEnd(c), c.saidMost)) {
    c.warm = 1;
    markDirty(c);
  }
}

/** Primary: the standby has each connection that we could go on with, and its server could with some at once. */
export function canPass(): bool {
  const s = state();
  let isWarm = false;
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (!has(c, Flag.Logged) || !isOpen(c)) continue;
    if (!has(c, Flag.Hot) || c.reason != Reason.None) return false;
    if (c.warm) isWarm = true;
  }
  return isWarm;
}

/** Ends of our server wait for the word whether it lives. */
export function endsHeld(): bool {
  const s = state();
  return s.logMode != 0 && s.disputedHead != 0;
}

/**
 * Our server lives, so what it ended before it answered the last probe it meant to end; as many as fit
 * this pass.
 */
export function confirmEnds(): void {
  const s = state();
  while (s.disputedHead && s.probeTail && hasRoom()) {
    const index = s.disputedHead;
    const c = at(index - 1);
    dropDisputed();
    if (index == s.probeTail) s.probeTail = 0;
    if (c.phase == Phase.Free || c.phase == Phase.Closed) continue;
    if (has(c, Flag.Asked)) refuse(c);
    else if (has(c, Flag.ResetHeld)) sendReset(c);
    else if (!has(c, Flag.FinHeld)) continue;
    else if (endsEarly(c)) giveUpEnded(c);
    else sendFin(c);
  }
}
