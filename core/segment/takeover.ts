/**
 * takeover.ts - changes of role
 *
 *   promote()   standby -> primary: every record becomes able to speak; nothing is sent yet (P7)
 *               also after a start from a log on disk, which then is our standby: `Staying.Store`
 *   speak()     after the address is ours: the parked flight, a SYN-ACK, or an ACK for each record
 *   demote()    primary -> standby, in a planned switch: the local server goes on as a replica
 *
 * After promote() a connection stays "fed" until its server has read all of the log and produced
 * all the client has acknowledged; most are direct at once.
 */
import {
  HALF_OPEN_MS,
  LINGER_MS,
  READ_LINGER_MS,
  SUPER_SEGMENT,
  TS_SLACK_MS,
  UNKNOWN_EDGE,
  UNKNOWN_OUTPUT_MAX,
} from "../limits";
import { count, Counter, noteInput, Role, state } from "../state";
import { after, before, earlier, later } from "../wire/bytes";
import { FIN } from "../wire/packet";
import { at, Connection, Flag, has, isAccepted, Leg, Phase, Reason } from "../flow/connection";
import { comparisonOf } from "../flow/comparison";
import { CloseHow, writeClose, writeEarly } from "../records";
import {
  checkClosed,
  goAlone,
  markDirty,
  markDisputed,
  markPump,
  parkedFlight,
  rebuildFree,
  release,
  startTimer,
  unprotect,
} from "../flow/lifecycle";
import { clear, read } from "../stream/chain";
import {
  ackClient,
  clientSegmentSize,
  complete,
  hasRoom,
  isTooSmall,
  makeOutput,
  optionLength,
  probeClient,
  resetServer,
  sendSynAck,
  tcpOf,
  toClient,
} from "./output";
import {
  adoptOutput,
  comparedEnd,
  digestParked,
  endsEarly,
  provenEnd,
  resetClient,
  yieldOutput,
} from "./comparing";
import { holdFin, isFinDue, isGone, refuse } from "./ending";
import { endServer, enterFed, owes, pump } from "./feeder";
import { arm, leave, shownOctets } from "./recovery";
import { endJoining, markJoining, startBringing, stopBringing } from "./telling";

/**
 * Sets tsDelta so that our server's clock goes on where the client's picture of it may stand by now.
 */
export function alignTimestamps(c: Connection): void {
  const s = state();
  const clientNow = c.tsClock + s.now;
  const legNow = c.legTs + (s.now - c.legTsAt);
  const delta = clientNow - legNow;
  if (c.tsDelta == 0 || after(delta, c.tsDelta)) c.tsDelta = delta;
}

/** Who is our standby when we have become primary. */
export const enum Staying {
  Nobody = 0,
  /** The old primary, which has told all (planned switch). */
  Peer,
  /**
   * The log on disk that we have read, or written as a standby, which lacks the old primary's last words.
   * Clients hear of nothing before all we have been told is durable there.
   */
  Store,
  /** The next replica of the chain, which is told what we were told, and of which we know what it has (Connection.next). */
  Next,
}

/**
 * The standby becomes primary. With somebody who stays connections stay protected. Returns the number of
 * connections taken over. For the next replica of the chain `goOnAfter()` comes first.
 */
export function promote(staying: Staying): u32 {
  const s = state();
  const peerStays = staying == Staying.Peer;
  s.role = Role.Primary;
  s.standbyReady = staying == Staying.Nobody ? 0 : 1;
  if (staying != Staying.Next) {
    s.committedSeq = s.messageSeq - 1;
    s.inputSeq = s.committedSeq;
    s.openSeq = s.committedSeq;
  }
  // Nothing is known of its server yet.
  s.theirsOweAt = 0;
  // In log mode the server is still to be started, unless it was fed already.
  if (s.logMode && !s.warm) s.feeding = 0;
  let taken: u32 = 0;
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase == Phase.Free || has(c, Flag.Diverged)) continue;
    const lost = c.reason == Reason.Joining || (!has(c, Flag.Logged) && c.leg == Leg.None);
    if (c.leg >= Leg.Dead || lost) {
      // Our server never had it or lost it: the client's next segment is answered with a RST.
      if (staying == Staying.Next) writeClose(c, CloseHow.Dropped, 0);
      release(c);
      continue;
    }
    taken++;
    adoptOutput(c, peerStays);
    c.writeMs = 0;
    c.readMs = 0;
    c.flags |= Flag.Taken;
    c.saidMost = later(c.sndShown, c.cliAck) + UNKNOWN_OUTPUT_MAX;
    c.takenAtMs = s.now;
    if (has(c, Flag.TsOk)) {
      c.tsClock += TS_SLACK_MS;
      c.tsShown = c.tsClock + s.now;
      if (c.leg >= Leg.SynAck) alignTimestamps(c);
    }
    if (has(c, Flag.Logged)) {
      // It may have died, and we not know yet.
      if (isAccepted(c) && has(c, Flag.ServerFin) && endsEarly(c)) holdFin(c);
      const over = has(c, Flag.ClientFin) && c.rcvNxt == c.finSeq + 1 && hasServersFin(c);
      // However long ago it ended: nobody was here to repeat the last ACK, which may have been lost.
      const ended = c.phase == Phase.Closed && staying == Staying.Store;
      if (!isAccepted(c)) arm(c);
      else if (hasServersFin(c)) c.flags |= Flag.EndHeard;
      c.warm = 0;
      c.cold = Reason.None;
      if (over || ended) {
        c.phase = Phase.Closed;
        startTimer(c, s.now + (staying == Staying.Store ? READ_LINGER_MS : LINGER_MS));
      }
      c.flags &= ~(<u32> (Flag.PeerFin | Flag.PeerGone));
    }
    if (!peerStays) {
      // What it showed in its last moments we do not know; our log has room for that much more.
      const most = c.legAck + s.logLimit;
      const widened = c.edgeShown + UNKNOWN_EDGE;
      c.edgeShown = later(c.edgeShown, earlier(widened, most));
    }
    if (peerStays && has(c, Flag.PeerGone)) {
      // The other server died in the midst of it, and that is why we are here.
      unprotect(c, Reason.StandbyEnded);
      count(Counter.Unprotected);
    } else if (staying == Staying.Next) followOn(c);
    else if (staying != Staying.Nobody) {
      if (has(c, Flag.PeerFin) && !has(c, Flag.ServerFin)) markDisputed(c);
      c.flags |= Flag.Hot;
      c.reason = Reason.None;
      c.peerNxt = c.rcvNxt;
      c.peerEdge = c.rcvNxt + s.peerLogLimit;
      if (peerStays && !writeEarly(c)) {
        unprotect(c, Reason.LogMemory);
        count(Counter.Unprotected);
        writeClose(c, CloseHow.Dropped, 0);
      }
    } else {
      c.reason = Reason.StandbyLost;
      c.flags &= ~(<u32> Flag.Hot);
    }
    // What we were told last may not be on the disk yet; this message follows it there.
    if (staying == Staying.Store) markDirty(c);
    digestParked(c);
    if (c.phase == Phase.Half && !has(c, Flag.Timer)) startTimer(c, s.now + HALF_OPEN_MS);
  }
  if (staying == Staying.Store && taken) noteInput();
  rebuildFree();
  s.speakNext = 0;
  stopBringing();
  if (staying == Staying.Next) startBringing();
  return taken;
}

/**
 * What comes from now on follows on message `sent`, the last one that was handed on, of which the next replica
 * has confirmed those up to `confirmed`: nothing leaves before it has confirmed the rest.
 */
export function goOnAfter(sent: u32, confirmed: u32): void {
  const s = state();
  // What we had to say to the old primary.
  s.bodyUsed = 0;
  s.messageSeq = sent + 1;
  s.inputSeq = sent;
  s.openSeq = sent;
  s.committedSeq = confirmed;
  s.waitingSince = s.now;
}

/** The next replica of the chain is our standby: it says anew how far it is, or is told of the connection. */
function followOn(c: Connection): void {
  const hasIt = c.next != 0;
  c.next = 0;
  c.flags &= ~(<u32> (Flag.Hot | Flag.PeerFin | Flag.PeerGone));
  c.reason = Reason.StandbyLost;
  if (!hasIt) return;
  c.flags |= Flag.Hot;
  c.reason = Reason.None;
  c.peerSnd = c.iss + 1;
  c.peerRead = c.irs + 1;
  comparisonOf(c).peerSame = c.iss + 1;
  markDirty(c);
}

/** Standby: nobody follows us any more, or somebody who has nothing yet. */
export function loseNext(): void {
  const s = state();
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    c.next = 0;
    c.peerNxt = c.irs + 1;
    c.peerEdge = c.peerNxt;
  }
}

/** Standby: another one is primary, and goes on with what we were told. It is to hear how far we are. */
export function noteNewPrimary(): void {
  const s = state();
  s.peerClockKnown = 0;
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase != Phase.Free) markDirty(c);
  }
}

/** Speaks for records not spoken for yet, as many as fit this pass; true when more remain. */
export function speak(): bool {
  const s = state();
  while (s.speakNext < s.highWater) {
    if (!hasRoom()) return true;
    const c = at(s.speakNext);
    if (c.phase == Phase.Free) {
      s.speakNext++;
      continue;
    }
    if (has(c, Flag.Diverged)) resetClient(c);
    else if (isAccepted(c) || (has(c, Flag.Logged) && c.leg == Leg.None)) {
      if (c.phase == Phase.Half) sendSynAck(c);
      else if (!speakFor(c)) return true;
      pump(c);
    }
    s.speakNext++;
  }
  return false;
}

/** True when the client has acknowledged a FIN: our server's, or one that only an earlier server has said. */
export function hasServersFin(c: Connection): bool {
  if (has(c, Flag.EndHeard)) return true;
  // One that is held was not said, wherever it stands.
  if (has(c, Flag.ServerFin) && !has(c, Flag.FinHeld)) return after(c.cliAck, c.srvFin);
  return has(c, Flag.PeerFin) && after(c.cliAck, c.peerSnd);
}

/**
 * True when the client is told no more: over, but for an ACK that may be lost. It asks again if so, and is
 * answered then. One that has forgotten the connection would answer anything else with a RST.
 */
export function endIfOver(c: Connection): bool {
  if (!has(c, Flag.ClientFin) || c.rcvNxt != c.finSeq + 1 || !hasServersFin(c)) return false;
  c.ackShown = later(c.ackShown, c.rcvNxt);
  checkClosed(c);
  return true;
}

/** Sends what is parked, or asks the client; false when it did not fit into this pass. */
export function speakFor(c: Connection): bool {
  if (endIfOver(c)) return true;
  if (before(c.parkBase, c.cliAck)) {
    c.parkBase = c.cliAck;
    if (before(c.parkEnd, c.cliAck)) c.parkEnd = c.cliAck;
  }
  const stop = provenEnd(c);
  // Of an Unproven server's octets none pass directly: what is lost we repeat.
  const keeps = owes(c) || has(c, Flag.Unproven);
  if (c.parkBase == stop) {
    if (stop == c.parkEnd && !keeps) clear(parkedFlight(c));
    // The server's FIN alone may be in flight.
    if (
      has(c, Flag.ServerFin) && !after(c.cliAck, c.srvFin) && c.parkEnd == c.srvFin &&
      !has(c, Flag.Unproven) && isFinDue(c)
    ) {
      const packet = makeOutput(c, c.srvFin, FIN);
      c.sndShown = later(c.sndShown, c.srvFin + 1);
      toClient(packet, complete(packet, 0, 65535));
    } else if (c.phase < Phase.Closed) {
      ackClient(c);
      // Of one that is even, and whose server may write, nothing is to be learnt: a question would cost
      // each of many idle clients an answer.
      if (has(c, Flag.Unproven) || isTooSmall(c, c.cliWnd << c.cliWs)) probeClient(c);
    }
    return true;
  }
  while (before(c.parkBase, stop)) {
    if (!hasRoom()) return false;
    const left = stop - c.parkBase;
    const length = left < SUPER_SEGMENT ? left : SUPER_SEGMENT;
    const last = length == left && has(c, Flag.ServerFin) && stop == c.srvFin &&
      !has(c, Flag.Unproven) && isFinDue(c);
    const packet = makeOutput(c, c.parkBase, last ? FIN : 0);
    read(parkedFlight(c), c.parkBase, tcpOf(packet) + 20 + optionLength(c), length);
    toClient(packet, complete(packet, length, clientSegmentSize(c)));
    c.parkBase += length;
    c.sndShown = later(c.sndShown, c.parkBase + (last ? 1 : 0));
  }
  if (stop == c.parkEnd && !keeps) clear(parkedFlight(c));
  return true;
}

/** The primary becomes the standby of its former standby (planned switch). */
export function demote(): void {
  const s = state();
  s.role = Role.Standby;
  s.standbyReady = 0;
  s.peerClockKnown = 0;
  if (s.logMode && !s.warm) s.feeding = 0;
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase == Phase.Free) continue;
    if (!has(c, Flag.Hot) || c.reason == Reason.Joining) {
      // Unknown to the new primary: its end here is explicit, not a zombie.
      if (c.leg >= Leg.SynAck && c.phase < Phase.Closed) resetServer(c);
      else if (has(c, Flag.Fed)) endServer(c);
      release(c);
      continue;
    }
    if (has(c, Flag.Logged)) {
      standBy(c);
      continue;
    }
    if (isGone(c)) {
      if (!has(c, Flag.ResetHeld)) resetServer(c);
      release(c);
      continue;
    }
    c.flags &= ~(<u32> (Flag.Hot | Flag.AckClient | Flag.FinHeld));
    // Our server will not repeat what we owe; the next primary here must have it.
    if (owes(c)) c.parkBase = c.cliAck;
    c.reason = isAccepted(c) ? Reason.None : Reason.Pending;
    yieldOutput(c);
    if (has(c, Flag.ServerFin)) markDirty(c);
    c.tries = 0;
    c.writeMs = 0;
    c.readMs = 0;
    if (has(c, Flag.Fed)) continue;
    enterFed(c);
    c.edgeReported = c.legAck + s.logLimit;
  }
}

/** The same of a connection whose whole log is kept. */
function standBy(c: Connection): void {
  const s = state();
  c.outShown = shownOctets(c);
  yieldOutput(c);
  c.saidMost = comparedEnd(c);
  c.warm = 0;
  c.cold = Reason.None;
  const goesOn = s.warm != 0 && isAccepted(c) && c.phase < Phase.Closed && !has(c, Flag.ResetHeld);
  // Where no server is fed while it stands by, from now on we only keep the log.
  if (!goesOn) leave(c);
  else if (!has(c, Flag.Fed)) enterFed(c);
  else if (owes(c)) c.parkBase = c.cliAck;
  c.flags &= ~(<u32> (Flag.Hot | Flag.AckClient | Flag.FinHeld | Flag.Judged));
  c.reason = Reason.None;
  c.tries = 0;
  c.edgeReported = c.legAck + s.logLimit;
  if (!goesOn) return;
  markDirty(c);
  markPump(c);
}

/** The standby is gone, for `reason`: its connections are unprotected, and nothing waits for it. */
export function standbyLost(reason: Reason): void {
  const s = state();
  s.standbyReady = 0;
  stopBringing();
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase == Phase.Free) continue;
    if (has(c, Flag.Asked)) {
      if (hasRoom()) refuse(c);
      else markDisputed(c);
    }
    if (!has(c, Flag.Hot)) continue;
    goAlone(c, reason);
  }
}

/** The standby is gone, and others keep what they are told: nothing is told again for its sake. */
export function standbyLeft(): void {
  const s = state();
  s.peerLogLimit = s.logLimit;
  stopBringing();
  endJoining();
}

/** The oldest segment of the disk's log that a connection still needs; 2^32 - 1 for none. */
export function oldestTold(): u32 {
  const s = state();
  let oldest = U32.MAX_VALUE;
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    // One that both sides have finished still answers for a lost last ACK.
    const isNeeded = s.role == Role.Standby || has(c, Flag.Hot) ||
      (c.phase == Phase.Closed && c.toldIn != 0);
    if (c.phase != Phase.Free && isNeeded && c.toldIn < oldest) oldest = c.toldIn;
  }
  return oldest;
}

/**
 * A standby is there; connections that begin from now on are protected, and older ones soon too. Where
 * others keep what they are told already, what waits for them goes on waiting.
 */
export function standbyJoined(peerLogLimit: u32): void {
  const s = state();
  s.peerLogLimit = peerLogLimit;
  if (s.standbyReady) markJoining();
  else {
    s.committedSeq = s.messageSeq - 1;
    s.inputSeq = s.committedSeq;
    s.openSeq = s.committedSeq;
  }
  s.standbyReady = 1;
  s.theirsOweAt = 0;
  startBringing();
}

/** Every record is told to the standby in the next messages: before a planned switch. */
export function markAll(): void {
  const s = state();
  for (let i: u32 = 0; i < s.highWater; i++) {
    const c = at(i);
    if (c.phase != Phase.Free && has(c, Flag.Hot)) markDirty(c);
  }
}

/**
 * Forgets connections, as many as fit this pass; with `reset` the local kernel is told of each. True
 * when more remain.
 */
export function forgetAll(reset: bool): bool {
  const s = state();
  while (s.highWater) {
    if (reset && !hasRoom()) return true;
    const c = at(s.highWater - 1);
    if (c.phase != Phase.Free) {
      if (reset && c.leg >= Leg.SynAck && c.leg != Leg.Dead) resetServer(c);
      release(c);
    }
    s.highWater--;
  }
  s.peerClockKnown = 0;
  rebuildFree();
  return false;
}
