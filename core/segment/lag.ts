/**
 * lag.ts - a server that stands still while the other replica's goes on
 *
 * Theory of operation
 * Every LAG_SCAN_MS each followed connection is looked at, and each replica judges its own server:
 * only it sees that kernel's window and what is in flight, without delay. How far the other's server
 * is comes with PROGRESS and REPORT, which a look sends when ours has moved. A kernel's ACK is not
 * its program's read, and its output is not its program's write, so:
 *
 *   does not write   all that our kernel has sent is acknowledged and the client takes more, so the
 *                    kernel has nothing left; and the other server has written more (for a standby:
 *                    and the client has it already). A kernel that has room and still lacks input has
 *                    lost it on the way: it is the client's RTO that its program waits for
 *   does not read    our kernel's window is closed, and the other server has read an eighth of
 *                    `log_limit` more, and a quarter of what ours has not. What is read is estimated as
 *                    the right edge less the largest window ever shown. The estimate errs where a
 *                    kernel's buffer grows unread (120 KB were seen): hence the eighth.
 *
 * A server that does not move for `lag_time` hangs. So does one that moves, was more than `lag_bytes`
 * behind all that time, and is not even where the other one was when it began: a fast stream is soon
 * far ahead of a server that is only a moment late. Time in which this loop itself did not run does not
 * count. What the client does
 * (silence, a closed window, slow reading) stops both servers alike, and so does a long thought.
 *
 *   on a primary   a finding; the caller hands the service over
 *   on a standby   the connection is given up (FAIL): its log and parked flight are freed, and it goes
 *                  on unprotected. The leg stays as it is (`Leg.Hung`): when that server moves again, it
 *                  is alive, and the leg is reset.
 *
 * A single thread that serves many may leave one of them for long, and works. Nothing is found on a primary while its
 * server writes or reads on a connection that nobody follows, which a hand-over would end. Octets that its kernel
 * may have held, or taken, without it do not count.
 *
 * Once our server was found hanging, its other connections need to be behind for LAG_AGAIN_MS only.
 * It lives again when it moves where it stood still, on either side of a hand-over, or writes on a connection
 * that began later. Where it was given up after less than `lag_time`, its kernel may have had something left
 * to say, which it says within that time, as nothing is acknowledged to it any more: until then what is
 * written proves nothing.
 *
 * An end that our server has said alone (ending.ts) says nothing while the standby's seems to hang: it writes
 * nothing anywhere, and ours has written more somewhere. When it goes on, it has its time to follow from then on.
 * What a kernel reads is no sign of life, as it does so for a server that hangs, too:
 *
 *   ours       writes   writes   FIN
 *   theirs     writes   |------- stands -------| writes ...
 *                                '--- doubt ---'-- fin_wait --> judged
 *
 * A standby that came later is played what was said before (telling.ts): it may be far behind, but a
 * server that writes and reads nothing for PROVE_MS, or falls back by more than BEHIND_MAX, is given up there.
 *
 * Limits: LAG_SCAN_MAX records in one tick; a scan of more takes more ticks.
 */
import {
  BEHIND_MAX,
  BUFFERED_MAX,
  LAG_AGAIN_MS,
  LAG_SCAN_MAX,
  LAG_SCAN_MS,
  PROVE_MS,
} from "../limits";
import { Role, state } from "../state";
import { after, before, earlier, later } from "../wire/bytes";
import { at, Connection, Flag, has, Leg, Phase, Reason, Stands } from "../flow/connection";
import { dropOctets, markDirty, stopTimer, unprotect } from "../flow/lifecycle";
import { Finding, noteFinding } from "../judgement";
import { writeHang } from "../records";
import { isFollowed, outputEnd } from "./ending";
import { failLeg } from "./feeder";
import { holdFree, isTooSmall, resetServer } from "./output";

/** A server that writes nothing for so long, where the other one has, may hang; milliseconds. */
const DOUBT_MS: u32 = 2 * LAG_SCAN_MS;

/** About where our server has read the client's stream to. */
export function readUpTo(c: Connection): u32 {
  return c.legEdge - c.legMax;
}

/** Looks at the connections whose turn it is; `passedMs` since the last call. */
export function scanLag(passedMs: u32): void {
  const s = state();
  // A loop that stood still saw nothing of what servers did meanwhile.
  s.awakeMs += passedMs < LAG_SCAN_MS ? passedMs : LAG_SCAN_MS;
  // In log mode no other server runs that this one could lag behind; one that is replayed to catches up.
  if (s.role == Role.Silent || !s.lagMs || s.logMode) return;
  if (!s.scanNext) {
    if (s.awakeMs < LAG_SCAN_MS) return;
    // While the server's side is not read, it cannot show that it goes on.
    s.scanMs = holdFree() ? s.awakeMs : 0;
    s.awakeMs = 0;
  }
  for (let i: u32 = 0; i < LAG_SCAN_MAX && s.scanNext < s.highWater; i++) {
    look(at(s.scanNext++));
  }
  if (s.scanNext >= s.highWater) s.scanNext = 0;
}

function look(c: Connection): void {
  const s = state();
  if (c.phase == Phase.Free) return;
  if (!s.hung) c.stands = Stands.Nowhere;
  // Its kernel can have had nothing to say before the program had.
  if (s.hung && after(c.openedAt, s.hungAt) && after(c.sndNxt, c.iss + 1)) noteLife();
  const primary = s.role == Role.Primary;
  if (c.phase < Phase.Open || c.phase == Phase.Closed || c.leg != Leg.Open) return;
  if (primary && !isFollowed(c)) {
    lookAtAlone(c);
    return;
  }
  // A FIN may be its kernel's.
  const end = outputEnd(c);
  const wrote = end != c.scanSnd;
  const read = c.legEdge != c.scanEdge;
  if (c.reason == Reason.Joining) {
    c.scanSnd = end;
    c.scanEdge = c.legEdge;
    lookAtJoining(c, wrote || read);
    return;
  }
  if ((wrote && c.writeMs && primary) || (read && c.readMs)) noteLife();
  if (isProof(c, wrote, read)) noteLife();
  if (primary && !s.theirsOweAt && after(end, c.peerSnd)) s.theirsOweAt = s.now;
  if (wrote || read) markDirty(c);
  const owed = isStarved(c) ? 0 : unwritten(c, primary);
  c.scanSnd = end;
  c.scanEdge = c.legEdge;
  c.scanAck = c.legAck;
  c.writeMs = stood(c.writeMs, owed, wrote && !after(c.writeMark, c.sndNxt), wrote);
  if (!c.writeMs) c.writeMark = c.sndNxt + owed;
  const unreadOctets = unread(c);
  const readTo = readUpTo(c);
  c.readMs = stood(c.readMs, unreadOctets, read && !after(c.readMark, readTo), read);
  if (!c.readMs) c.readMark = readTo + unreadOctets;
  const limit = s.hung ? LAG_AGAIN_MS : s.lagMs;
  const isLate = c.writeMs >= limit || c.readMs >= limit;
  if (isLate && !(primary && isNeeded())) judge(c, primary);
}

/** Primary: does our server move on a connection that would end with a hand-over? */
function lookAtAlone(c: Connection): void {
  const s = state();
  const end = outputEnd(c);
  const isNew = c.scanSnd == 0;
  // Its kernel had nothing left at the last look.
  const wrote = end != c.scanSnd && c.scanAck == c.scanSnd;
  const isMuch = end - c.writeMark > BUFFERED_MAX || c.legAck - c.readMark > BUFFERED_MAX;
  if (isNew || wrote || isMuch) {
    c.writeMark = end;
    c.readMark = c.legAck;
    if (!isNew) s.aloneMovedAt = s.now;
  }
  c.scanSnd = end;
  c.scanEdge = c.legEdge;
  c.scanAck = isTooSmall(c, c.cliWnd << c.cliWs) ? end - 1 : c.cliAck;
}

/** Our server has moved lately where nobody could go on from. */
function isNeeded(): bool {
  const s = state();
  return s.aloneMovedAt != 0 && s.now - s.aloneMovedAt < s.lagMs;
}

/** What our server has written or read since the last look shows that it goes on where it was found hanging. */
function isProof(c: Connection, wrote: bool, read: bool): bool {
  if (c.stands == Stands.Nowhere || before(state().now, c.provesAt)) return false;
  return c.stands == Stands.Writing ? wrote : read;
}

/** Primary: the standby's server writes. */
export function noteTheirMove(): void {
  const s = state();
  if (isTheirsStill()) s.theirsBackAt = s.now;
  s.theirsOweAt = 0;
}

/** Theirs has written nothing for so long, though ours has written more, that it may hang. */
function isTheirsStill(): bool {
  const s = state();
  return s.theirsOweAt != 0 && s.now - s.theirsOweAt > DOUBT_MS;
}

/** Primary: true when the standby's server has had its time to end a connection that ours has ended at `sinceMs`. */
export function hadTime(sinceMs: u32): bool {
  const s = state();
  const waitedMs = s.now - sinceMs;
  // One that hangs is found out.
  if (isTheirsStill()) return waitedMs >= s.finWaitMs + 2 * s.lagMs;
  const isBack = s.now - s.theirsBackAt >= s.finWaitMs;
  return (isBack && waitedMs >= s.finWaitMs) || waitedMs >= 2 * (s.finWaitMs + s.lagMs);
}

/** Standby: one that is played a long past is behind, but has to go on and must not fall back for good. */
function lookAtJoining(c: Connection, moves: bool): void {
  c.writeMs = moves ? 0 : c.writeMs + state().scanMs;
  const behind = <i32> (later(c.cliAck, c.sndShown) - c.sndNxt);
  if (c.writeMs >= PROVE_MS || behind > BEHIND_MAX) failLeg(c, Reason.LegStalled);
}

/** How long a server has stood still by now, or has been on its way to the mark. */
function stood(ms: u32, behind: u32, arrived: bool, moved: bool): u32 {
  const s = state();
  const late = !moved || (behind > s.lagBytes && !arrived);
  return behind && late ? ms + s.scanMs : 0;
}

/** Our server's kernel has room for octets that we have seen, and has not got any since the last look. */
function isStarved(c: Connection): bool {
  return c.legAck == c.scanAck && after(c.rcvNxt, c.legAck) && c.legEdge - c.legAck >= c.srvMss;
}

/** How much of its output our server owes; 0 when it may be the client or the kernel that is slow. */
function unwritten(c: Connection, primary: bool): u32 {
  if (has(c, Flag.ServerFin) || after(c.sndNxt, c.cliAck)) return 0;
  // The standby's kernel may write all that the client has, and the client's window more (feeder.ts).
  const window = (c.cliWnd << c.cliWs) + (primary ? 0 : c.cliAck - c.sndNxt);
  if (isTooSmall(c, window)) return 0;
  const theirs = theirsDelivered(c, primary);
  return after(theirs, c.sndNxt) ? theirs - c.sndNxt : 0;
}

/**
 * How far the other server has written, and for a standby, of that what the client has. With commit "ack" a client
 * may have more of one that has died than any that lives.
 */
function theirsDelivered(c: Connection, primary: bool): u32 {
  return primary ? c.peerSnd : earlier(c.peerSnd, c.cliAck);
}

/** How much more input the other server has read; 0 when ours may not have been given more. */
function unread(c: Connection): u32 {
  const ours = readUpTo(c);
  if (!after(c.peerRead, ours)) return 0;
  const behind = c.peerRead - ours;
  const s = state();
  const closed = c.legEdge - c.legAck < c.srvMss && behind >= (c.legAck - ours) >>> 2;
  return (closed && behind >= s.logLimit >>> 3) || behind > s.lagBytes ? behind : 0;
}

function judge(c: Connection, primary: bool): void {
  const s = state();
  const writes = c.writeMs >= c.readMs;
  const stoodMs = writes ? c.writeMs : c.readMs;
  if (!s.hung) {
    s.hung = 1;
    s.hungAt = s.now;
  }
  const ours = writes ? c.sndNxt : readUpTo(c);
  const theirs = writes ? theirsDelivered(c, primary) : c.peerRead;
  noteFinding(
    writes ? Finding.OursStopsWriting : Finding.OursStopsReading,
    c,
    ours,
    theirs,
    s.now - stoodMs,
  );
  if (c.stands == Stands.Nowhere) {
    c.stands = writes ? Stands.Writing : Stands.Reading;
    c.provesAt = s.now + (writes && stoodMs < s.lagMs ? s.lagMs - stoodMs : 0);
  }
  if (primary) {
    // Found again, should nobody take the service now.
    c.writeMs = 0;
    c.readMs = 0;
    return;
  }
  writeHang(c, ours, stoodMs, !writes);
  c.leg = Leg.Hung;
  stopTimer(c);
  dropOctets(c);
  unprotect(c, Reason.StandbyHangs);
}

/** A hung server's kernel speaks: is it the program that goes on? If so, its connection here is over. */
export function wake(c: Connection, end: u32, ack: u32, edge: u32, ended: bool): void {
  if (ended || isProof(c, after(end, c.sndNxt), after(edge, c.legEdge))) noteLife();
  c.sndNxt = later(c.sndNxt, end);
  if (state().hung) return;
  c.legAck = ack;
  resetServer(c);
  c.leg = Leg.Dead;
}

/** Our server goes on, or is another one by now. */
export function noteLife(): void {
  state().hung = 0;
}
