/**
 * ending.ts - a server's FIN or RST: its answer, or its death?
 *
 * Theory of operation
 * A kernel ends the connections of a program that dies: with FIN when all input was read, else with
 * RST. On the wire that looks like an end the program meant. Two replicas tell them apart, because a
 * living pair ends at the same offset. So the primary keeps its server's end from the client until the
 * standby's server has ended too; its octets before the end leave as ever.
 *
 *   ours FIN at F     theirs FIN at F, or RST            both meant it: the client is told at once
 *                     theirs writes past F               ours died, known at once if they wrote the
 *                                                        same up to F (comparing.ts)
 *                     neither within fin_wait            ours died
 *   ours RST          theirs FIN there, or RST           both meant it; after two FINs only RST counts
 *                     theirs FIN past it                 ours died, known at once as above
 *                     neither within fin_wait            ours died
 *   theirs ends       ours writes past it                theirs died: the connection is unprotected
 *                     ours does not within fin_wait      the same
 *                     and two lag_time
 *   ours RST          theirs has not accepted in fin_wait  the client is told, unprotected
 *   ours ends, and the standby confirms no input     not judged: its word of its end may be as late
 *   one ends, and the other is not there yet         not judged: the client has yet to take what was said, or
 *                                                    lag.ts finds that one hanging
 *   ours ends, and theirs seems to hang              not judged before it goes on, and has had its time
 *
 * "Ours died" is a finding (judgement.ts); the caller then hands the service over, or, when nobody can
 * take it, calls `releaseEnds()`. A connection that nobody else follows ends as without us.
 *
 * The standby reports its server's FIN when it happens, and how far its server has written as soon as
 * that is past our FIN (records.ts), so a common end costs no round trip of its own.
 *
 * In log mode no other server can be asked. An end is held until the caller knows that our server lives
 * (recovery.ts); else another one is started in its place.
 *
 * Limits: `fin_wait` for each record, from when both have written the same on, and two `lag_time` more while a
 * server may hang; twice as much in all where it goes on in the meantime. They wait in a queue through the records;
 * EXPIRED_MAX of them are looked at in one tick.
 */
import { BODY_SIZE, LINGER_MS } from "../limits";
import { count, Counter, Role, state, unconfirmedMs } from "../state";
import { after, before, later } from "../wire/bytes";
import { ACK, FIN, RST } from "../wire/packet";
import { at, Connection, Flag, has, isAccepted, isTold, Phase, Reason } from "../flow/connection";
import {
  checkClosed,
  dropDisputed,
  dropLog,
  goAlone,
  markDirty,
  markDisputed,
  markPump,
  release,
  startTimer,
} from "../flow/lifecycle";
import { Finding, noteFinding } from "../judgement";
import { isSame } from "./comparing";
import { CloseHow, FAIL_SIZE, writeClose } from "../records";
import { failLeg } from "./feeder";
import { hadTime } from "./lag";
import {
  complete,
  hasRoom,
  make,
  makeOutput,
  NET,
  refuseClient,
  shownAck,
  toClient,
} from "./output";

/** Disputes that are settled in one tick. */
const EXPIRED_MAX: u32 = 4096;

/** Our server's next octet; where its FIN stands, once it has said it. */
export function outputEnd(c: Connection): u32 {
  return has(c, Flag.ServerFin) ? c.srvFin : c.sndNxt;
}

/**
 * True when the standby has the connection too, and its server is as far, so that its end says something
 * of ours; in log mode, when another server could be played the connection.
 */
export function isFollowed(c: Connection): bool {
  return has(c, Flag.Logged) || (has(c, Flag.Hot) && c.reason != Reason.Joining);
}

/**
 * True when the client may be told of our server's FIN; else it is held. While the standby's server is yet to
 * accept, a FIN is told at once, as short connections should not wait for a server that is being started. A
 * RST is held even then: the client has our SYN-ACK, and hardly any server means one that soon.
 */
export function isFinDue(c: Connection): bool {
  if (!isFollowed(c) || c.reason == Reason.Pending || isAgreed(c)) return true;
  holdFin(c);
  return false;
}

/** Keeps our server's FIN from the client. */
export function holdFin(c: Connection): void {
  if (has(c, Flag.FinHeld)) return;
  c.flags |= Flag.FinHeld;
  hold(c);
}

/** Keeps our server's RST from the client. */
export function holdReset(c: Connection): void {
  if (has(c, Flag.ResetHeld)) return;
  c.flags |= Flag.ResetHeld;
  hold(c);
}

function hold(c: Connection): void {
  count(Counter.EndsHeld);
  markDisputed(c);
  markDirty(c);
  markPump(c);
}

/** Both servers have ended at the same octet. */
function isAgreed(c: Connection): bool {
  return has(c, Flag.PeerFin) && c.peerSnd == c.srvFin;
}

/** The other replica's server has written up to `end`, and with `fin` says no more. */
export function notePeerOutput(c: Connection, end: u32, fin: bool): void {
  const s = state();
  const held = (c.flags & (Flag.FinHeld | Flag.ResetHeld)) != 0;
  const wasBehind = held && isBehind(c, true);
  if (!has(c, Flag.PeerFin)) {
    c.peerSnd = later(c.peerSnd, end);
    if (fin) {
      c.peerSnd = end;
      c.flags |= Flag.PeerFin;
    }
  }
  if (s.role == Role.Standby) {
    // The primary wants to know at once when ours goes on after its own has ended.
    if (has(c, Flag.PeerFin) && after(outputEnd(c), c.peerSnd)) markDirty(c);
    return;
  }
  if (fin && !has(c, Flag.ServerFin)) markDisputed(c);
  // Only now it can end where ours has.
  if (wasBehind && !isBehind(c, true)) c.disputedAt = s.now;
  checkPeerEnd(c);
  if (held) markPump(c);
}

/** Our server goes on where the standby's has ended: that one died. */
export function checkPeerEnd(c: Connection): void {
  if (has(c, Flag.Hot | Flag.PeerFin) && after(outputEnd(c), c.peerSnd)) losePeer(c);
}

function losePeer(c: Connection): void {
  if (c.reason == Reason.Joining) {
    abandon(c, Reason.ReplayDiffers);
    return;
  }
  noteFinding(Finding.TheirsEnded, c, outputEnd(c), c.peerSnd, c.disputedAt);
  abandon(c, Reason.StandbyEnded);
}

/** The standby is told to forget the connection, which goes on without it. */
function abandon(c: Connection, reason: Reason): void {
  writeClose(c, CloseHow.Dropped, 0);
  goAlone(c, reason);
}

/** On a primary, with room for two segments: looks whether the client may be told by now. */
export function settleEnd(c: Connection): void {
  if (c.phase == Phase.Closed) {
    c.flags &= ~(<u32> (Flag.FinHeld | Flag.ResetHeld));
    return;
  }
  const alone = !isFollowed(c);
  if (has(c, Flag.FinHeld)) {
    if (alone || isAgreed(c)) sendFin(c);
    else if (!has(c, Flag.Logged) && after(c.peerSnd, c.srvFin) && isSame(c, c.srvFin)) judge(c);
  }
  if (!has(c, Flag.ResetHeld)) return;
  // Where both had ended their direction before, a FIN says nothing about what came later.
  const theirs = has(c, Flag.PeerFin) && !has(c, Flag.ServerFin);
  // Theirs has read what ours died before it could, and has answered and ended.
  const further = theirs && after(c.peerSnd, c.sndNxt);
  if (alone || (theirs && !further)) sendReset(c);
  else if (further && isSame(c, c.sndNxt)) judge(c);
}

function judge(c: Connection): void {
  if (has(c, Flag.Judged)) return;
  c.flags |= Flag.Judged;
  noteFinding(Finding.OursEnded, c, outputEnd(c), c.peerSnd, c.disputedAt);
}

/** Tells the client of our server's FIN. */
export function sendFin(c: Connection): void {
  c.flags &= ~(<u32> (Flag.FinHeld | Flag.Judged));
  if (after(c.cliAck, c.srvFin)) {
    // It was told before, and this one was our kernel's repetition, or another server's.
    checkClosed(c);
    return;
  }
  const packet = makeOutput(c, c.srvFin, FIN);
  c.sndShown = later(c.sndShown, c.srvFin + 1);
  if (has(c, Flag.Hot)) markDirty(c);
  toClient(packet, complete(packet, 0, 65535));
}

/** Tells the client of our server's RST. */
export function sendReset(c: Connection): void {
  if (isTold(c)) writeClose(c, CloseHow.ServerReset, 0);
  c.flags |= Flag.ServerReset;
  c.flags &= ~(<u32> (Flag.ResetHeld | Flag.Judged | Flag.Hot | Flag.Fed | Flag.AckClient));
  c.phase = Phase.Closed;
  dropLog(c);
  count(Counter.Closed);
  startTimer(c, state().now + LINGER_MS);
  // What the client has is all we sent; if some of it was lost, it asks (RFC 5961) and our kernel,
  // which knows the connection no more, resets it with the number it asked with.
  const packet = make(c, NET, RST | ACK, later(c.sndShown, c.cliAck), shownAck(c), 0, 0);
  toClient(packet, complete(packet, 0, 65535));
}

/** The client's SYN was refused here and by the standby's server. */
export function refuse(c: Connection): void {
  refuseClient(c);
  release(c);
}

/** Ends that were alone for long enough are judged. */
export function settleDisputes(): void {
  const s = state();
  // In log mode no time says whether our server lives: see recovery.ts.
  if (s.logMode) return;
  const last = s.disputedTail;
  for (let i: u32 = 0; i < EXPIRED_MAX && s.disputedHead; i++) {
    const index = s.disputedHead;
    const c = at(index - 1);
    const ended = (c.flags & (Flag.ServerFin | Flag.ResetHeld)) != 0;
    const held = (c.flags & (Flag.FinHeld | Flag.ResetHeld)) != 0 && !has(c, Flag.Judged);
    const theirs = has(c, Flag.Hot | Flag.PeerFin) && !ended;
    const open = s.role == Role.Primary && c.phase != Phase.Free && c.phase != Phase.Closed &&
      (held || theirs || has(c, Flag.Asked));
    if (open && s.now - c.disputedAt < s.finWaitMs) return;
    // The standby's server may have ended long ago, and its word not be here yet.
    const pending = c.reason == Reason.Pending;
    if (open && held && !pending && unconfirmedMs() > s.finWaitMs >>> 2) return;
    dropDisputed();
    if (open) settleDispute(c, held, theirs);
    if (index == last) return;
  }
}

/** An end that was alone for `fin_wait`, or a SYN that was not answered for so long. */
function settleDispute(c: Connection, held: bool, theirs: bool): void {
  const s = state();
  const pending = c.reason == Reason.Pending;
  // A server that has not even accepted by now is no witness against ours.
  if (has(c, Flag.Asked)) refuse(c);
  else if (held && pending) abandon(c, Reason.StandbySilent);
  else if (isBehind(c, held)) markDisputed(c);
  else {
    const sinceMs = c.disputedAt;
    // Clients miss nothing while ours is waited for, and if it hangs it is found in that time.
    const isOver = held ? hadTime(sinceMs) : s.now - sinceMs >= s.finWaitMs + 2 * s.lagMs;
    if (!isOver) {
      markDisputed(c);
      c.disputedAt = sinceMs;
    } else if (held) judge(c);
    else losePeer(c);
  }
}

/** True when the server that has not ended is yet to write what comes before the other's end. */
function isBehind(c: Connection, held: bool): bool {
  const end = outputEnd(c);
  return held ? before(c.peerSnd, end) : before(end, c.peerSnd);
}

/** Nobody takes the service over: clients are told what was kept from them. */
export function releaseEnds(): void {
  const s = state();
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase == Phase.Free || c.phase == Phase.Closed) continue;
    if (has(c, Flag.Judged) && has(c, Flag.Hot)) abandon(c, Reason.ServerEnded);
  }
}

/** Our server is known to be dead: each end it has said alone is judged at once. */
export function judgeEnds(): void {
  const s = state();
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase != Phase.Free && (c.flags & (Flag.FinHeld | Flag.ResetHeld)) != 0) {
      c.flags |= Flag.Judged;
    }
  }
}

/**
 * Standby: our server's process has ended, so whatever its kernel says of its connections was not meant. They
 * are given up, but for those that both servers had ended; as many as fit this pass. True when more remain.
 */
export function forsake(): bool {
  const s = state();
  if (s.role != Role.Standby) return false;
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase == Phase.Free || c.phase == Phase.Closed || has(c, Flag.Asked)) continue;
    if (!isAccepted(c) || (has(c, Flag.ServerFin) && isAgreed(c))) continue;
    if (!hasRoom() || s.bodyUsed + FAIL_SIZE > BODY_SIZE) return true;
    failLeg(c, Reason.StandbyEnded);
  }
  return false;
}

/** True when our server has nothing to do with this connection any more. */
export function isGone(c: Connection): bool {
  return has(c, Flag.ResetHeld) || has(c, Flag.FinHeld | Flag.Judged);
}
