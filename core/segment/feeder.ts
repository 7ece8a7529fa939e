/**
 * feeder.ts - playing the client towards the local kernel
 *
 * Theory of operation
 * A standby's server must read what the primary's reads and write what it writes, though no client
 * ever speaks to it. The feeder opens the connection with the client's own SYN, sends the input log
 * in order within the kernel's window, and acknowledges output up to what the client has
 * acknowledged - never past what this kernel has sent. Octets the client acknowledged before our
 * server produced them are acknowledged the moment they appear. After a takeover the same feeder
 * goes on until log and output have caught up; then the connection is direct.
 *
 *   leg None --SYN--> SynSent --SYN-ACK--> SynAck --client's ACK known--> Open
 *                        |RST: tries used up                     |RST, no progress
 *                        +---------------> Dead <----------------+
 *
 * Of an Unproven server (comparing.ts) the client has nothing new to acknowledge, and its kernel may take
 * no more octets from it until something is: after a time-out it sends one segment at a time. So all that is
 * parked is acknowledged at once. Then it is ours to deliver, and to repeat, until the client has it:
 *
 *   cliAck             legUna               parkEnd
 *   |== owed, kept ====|== parked, or sent ==|          owes(): the chain reaches back to cliAck
 *
 * Where what was said long ago is played (log mode, re-join), the client's FIN waits until our server has
 * written what the client had acknowledged when it said it: the
 * server before ours had written that by then. One that reads the FIN earlier may take it for a client
 * that is gone, and end without writing what the client has (nginx does). With commit "ack" a FIN that the
 * standby never heard may have been answered already: its repetition acknowledges the answer too, which no
 * server writes before it has read the FIN. So there it waits no longer than until a server that has all
 * before it has said nothing for `fin_wait`.
 *
 * The link is a TUN device: lossless but for full queues, so there is no congestion control; a
 * timer with go-back-N (FEED_RTO_*) covers what is dropped.
 *
 * A kernel whose queues are full answers a SYN with a cookie, keeps nothing, and makes the connection from
 * the first later segment that it has room for. It takes that segment's number for the first of the stream:
 * a cookie is checked together with that number, but one up to 3 octets further on passes for another MSS,
 * and what came before is lost to the server; one further yet is answered with RST. So until the kernel has
 * acknowledged an octet, all that it hears begins with the first.
 *
 * Sources: RFC 9293 sections 3.8.1 and 3.8.6.1, RFC 7323 section 4, RFC 4987 section 3.6; `cookie_v4_check()`
 * and `__cookie_v4_check()` in net/ipv4/syncookies.c.
 */
import {
  FEED_RTO_MAX_MS,
  FEED_RTO_MIN_MS,
  FEED_SYN_TRIES,
  FEED_TRIES,
  PARKED_MAX,
  REPEAT_MIN_MS,
  SLOT_SIZE,
  SUPER_SEGMENT,
} from "../limits";
import { Commit, count, Counter, Divergence, Role, state } from "../state";
import { after, before, earlier, later } from "../wire/bytes";
import { ACK, FIN, PSH } from "../wire/packet";
import { Connection, Flag, has, indexOf, isStored, Leg, Phase, Reason } from "../flow/connection";
import {
  dropOctets,
  inputLog,
  isPastKept,
  markDirty,
  markDisputed,
  markPump,
  parkedFlight,
  parkFrom,
  release,
  startTimer,
  stopKeeping,
  stopTimer,
  unprotect,
} from "../flow/lifecycle";
import { clear, read, trim } from "../stream/chain";
import { clearRanges, cover } from "../stream/ranges";
import { CloseHow, FROM_LOG, writeClose, writeDiverged, writeFail } from "../records";
import { checkUnproven, digestParked, provenEnd, resetClient, unprovenAfter } from "./comparing";
import { settlePoint } from "./cutting";
import { settleEnd } from "./ending";
import { leave, settleWarm } from "./recovery";
import { endIfOver, speakFor } from "./takeover";
import { settleJoin } from "./telling";
import {
  ackClient,
  APP,
  clientSegmentSize,
  complete,
  hasRoom,
  isPastLog,
  make,
  optionLength,
  resetServer,
  sendSyn,
  tcpOf,
  toServer,
  writeTimestamps,
} from "./output";

/**
 * The record is about to go: a server that was fed and has not come to both ends has nobody left to talk to. Left
 * alone its kernel would answer for the old connection when the client takes its port again.
 */
export function endServer(c: Connection): void {
  if (c.leg < Leg.SynAck || c.leg == Leg.Dead) return;
  if (state().role == Role.Primary && !has(c, Flag.Fed)) return;
  const finished = has(c, Flag.ClientFin | Flag.ServerFin) && after(c.legAck, c.finSeq) &&
    after(c.legUna, c.srvFin);
  if (!finished) resetServer(c);
}

/**
 * The leg cannot go on: its server died, refused, disagrees, or (`Reason.Diverged`) wrote other octets
 * before `divergedAt`.
 */
export function failLeg(c: Connection, reason: Reason, divergedAt: u32 = 0): void {
  if (c.leg == Leg.Dead) return;
  if (c.leg >= Leg.SynAck && reason != Reason.StandbyReset) resetServer(c);
  c.leg = Leg.Dead;
  stopTimer(c);
  dropOctets(c);
  count(Counter.FeederRefused);
  if (state().logMode && state().role == Role.Primary && has(c, Flag.Hot)) {
    writeClose(c, CloseHow.Dropped, 0);
  }
  unprotect(c, reason);
  if (state().role == Role.Standby) {
    if (reason == Reason.Diverged) writeDiverged(c, divergedAt);
    else writeFail(indexOf(c), c.generation, reason);
  } else {
    // No server will ever speak for it again: the client is told.
    c.flags = (c.flags & ~(<u32> Flag.Logged)) | Flag.ResetHeld;
    markPump(c);
  }
  if (has(c, Flag.Asked)) release(c);
}

/**
 * Our server does not go on with this connection, for `reason` as above. A standby that keeps its whole log goes on
 * with that alone: another server can still be played it.
 */
export function giveUpServer(c: Connection, reason: Reason, divergedAt: u32 = 0): void {
  if (state().role != Role.Standby || !has(c, Flag.Logged)) {
    failLeg(c, reason, divergedAt);
    return;
  }
  count(Counter.FeederRefused);
  if (reason == Reason.Diverged) writeDiverged(c, divergedAt, FROM_LOG);
  else writeFail(indexOf(c), c.generation, reason | FROM_LOG);
  leave(c);
  c.cold = reason;
  // Should it have died, another one is played all of them.
  markDisputed(c);
}

/**
 * Takes a piece of the client's stream into the log. Returns false when it cannot be kept: then the leg is
 * failed, but on a primary whose client has it still and is merely not told that it has come.
 */
export function absorb(c: Connection, seq: u32, from: usize, length: u32, fin: bool): bool {
  if (c.leg >= Leg.Dead) return false;
  const end = seq + length;
  const logged = has(c, Flag.Logged);
  if (has(c, Flag.Kept) && isPastKept(c, end)) stopKeeping(c);
  const isPast = logged ? isPastLog(c, end) : after(end, c.legAck + state().logLimit + 131072);
  if (length && isPast) {
    // What the log cannot hold, the client sends again: it may have been shown more while segments passed
    // directly, or was held.
    if (state().role == Role.Primary) return false;
    // More than we promised to keep; the primary cannot have been told that it may.
    failLeg(c, Reason.LogMemory);
    return false;
  }
  const fresh = cover(c, seq, end, from, inputLog(c));
  if (fresh < 0) {
    if (!logged && state().role == Role.Primary) {
      // The client will say it again. What came early must not keep the place that is needed before it.
      stopKeeping(c);
      if (c.legAck == c.rcvNxt) {
        clearRanges(c);
        clear(inputLog(c));
      }
      return false;
    }
    failLeg(c, fresh == -1 ? Reason.LogMemory : Reason.TooManyRanges);
    return false;
  }
  c.bytesIn += <u64> fresh;
  if (fin) noteClientFin(c, end);
  if (has(c, Flag.ClientFin) && c.rcvNxt == c.finSeq) c.rcvNxt++;
  markPump(c);
  return true;
}

/** The client's stream ends at `seq`. */
export function noteClientFin(c: Connection, seq: u32): void {
  if (has(c, Flag.ClientFin)) return;
  c.flags |= Flag.ClientFin;
  c.finSeq = seq;
  if (c.phase == Phase.Open) c.phase = Phase.Closing;
}

/** From here on we stand between: what passed until now is the local kernel's own affair. */
export function enterFed(c: Connection): void {
  c.flags |= Flag.Fed;
  c.tries = 0;
  if (!isStored(c)) {
    // What came early passed to the kernel and not into the log, so it must come once more.
    clearRanges(c);
    c.logFrom = c.rcvNxt;
  }
  c.legNxt = c.rcvNxt;
  c.legUna = c.cliAck;
  parkFrom(c, c.sndNxt);
  if (c.legNxt != c.legAck && c.leg == Leg.Open) {
    c.rtoMs = FEED_RTO_MIN_MS;
    startTimer(c, state().now + c.rtoMs);
  }
  markPump(c);
}

/** True when our server counts octets as delivered that the client lacks: they are ours to repeat. */
export function owes(c: Connection): bool {
  return c.leg == Leg.Open && has(c, Flag.Fed) && after(c.legUna, c.cliAck);
}

/** Up to here our server may forget what it has written. */
function deliveredTo(c: Connection): u32 {
  const acked = earlier(c.cliAck, c.sndNxt);
  const chain = parkedFlight(c);
  // Where its server repeats what is lost, we need not.
  const keepsAll = chain.head != 0 && !after(chain.seq, acked);
  const mayOwe = has(c, Flag.Unproven) && state().role == Role.Primary && keepsAll;
  if (mayOwe) return later(acked, c.parkEnd);
  return owes(c) ? c.legUna : acked;
}

/**
 * True when the local server has everything the client said and the client all it has sent. A FIN that came
 * early is ours to say once the octets before it are there: none but us knows of it.
 */
export function hasCaughtUp(c: Connection): bool {
  const early = has(c, Flag.ClientFin) && c.rcvNxt != c.finSeq + 1;
  return !owes(c) && c.leg == Leg.Open && c.legAck == c.rcvNxt && !c.range && !early &&
    !after(c.cliAck, c.sndNxt) && c.parkBase == c.parkEnd && !has(c, Flag.Unproven);
}

/** Octets in units of the client's window, rounded up. */
function scaled(c: Connection, octets: u32): u32 {
  return (octets + (1 << c.cliWs) - 1) >>> c.cliWs;
}

function sendToServer(c: Connection, flags: u32, seq: u32, ack: u32, length: u32): void {
  const s = state();
  const options = optionLength(c);
  // A standby's server writes no more ahead than can be parked: what cannot be is lost until its kernel
  // repeats it, and that server falls behind.
  const most = s.role == Role.Standby ? (PARKED_MAX - SLOT_SIZE) >>> c.cliWs : 65535;
  let window = c.cliWnd < most ? c.cliWnd : most;
  // The client's window counts from what the client has. A server that is behind may write all of
  // that and the window too, else a client that pauses would stop it for good. Rounded up: the last few
  // octets before cliAck must not be held back by the scale's grain.
  if (!after(ack, c.cliAck)) window += scaled(c, c.cliAck - ack);
  else {
    const owed = scaled(c, ack - c.cliAck);
    window = window > owed ? window - owed : 0;
    const unproven = has(c, Flag.Unproven) ? unprovenAfter(c, ack) : 0;
    if (window < scaled(c, unproven)) window = scaled(c, unproven);
  }
  const field = window > 65535 ? 65535 : window;
  const packet = make(c, APP, flags, seq, ack - c.issDelta, field, options);
  const tcp = tcpOf(packet);
  // Never older than what passed directly before: the kernel would drop it (PAWS).
  if (options) writeTimestamps(tcp + 20, later(c.cliTs, c.cliTsNew), c.legTs);
  if (length) read(inputLog(c), seq, tcp + 20 + options, length);
  toServer(packet, complete(packet, length, clientSegmentSize(c)));
  c.legUna = ack;
}

/** Does for one connection what is due: SYN, octets, FIN, ACK to the server, ACK to the client. */
export function pump(c: Connection): void {
  const s = state();
  if (c.phase == Phase.Free) return;
  if (has(c, Flag.Diverged) && s.role == Role.Primary) {
    resetClient(c);
    return;
  }
  if (!hasRoom()) {
    markPump(c);
    return;
  }
  if ((c.flags & (Flag.FinHeld | Flag.ResetHeld)) != 0 && s.role == Role.Primary) settleEnd(c);
  if (c.leg >= Leg.Dead) return;
  if (c.phase == Phase.Syn) {
    // It has waited for this server: see replay().
    const isDue = s.logMode != 0 && s.feeding != 0 && c.reason == Reason.None;
    if (isDue && !has(c, Flag.Asked)) sendSyn(c);
    return;
  }
  if (!has(c, Flag.Fed)) {
    if (has(c, Flag.AckClient)) ackClient(c);
    return;
  }
  const isLeft = c.cold != 0 && s.role == Role.Standby;
  if (c.leg == Leg.None && s.feeding && !isLeft && c.phase != Phase.Closed) {
    c.leg = Leg.SynSent;
    c.rtoMs = FEED_RTO_MIN_MS;
    sendSyn(c);
    startTimer(c, s.now + c.rtoMs);
  }
  if (c.leg == Leg.SynAck && after(c.cliAck, c.iss)) {
    c.leg = Leg.Open;
    c.flags |= Flag.ForceAck;
  }
  if (c.leg == Leg.Open) feed(c);
  if (s.role == Role.Primary) {
    if (has(c, Flag.AckClient)) ackClient(c);
    if (has(c, Flag.Unproven)) {
      checkUnproven(c);
      if (before(c.parkBase, provenEnd(c)) && !speakFor(c)) markPump(c);
    } else if (before(c.parkBase, c.parkEnd)) {
      // Our server has come as far as the old primary had told, and wrote the same.
      digestParked(c);
      if (!speakFor(c)) markPump(c);
    }
    if (has(c, Flag.Unproven) && !has(c, Flag.Timer)) startTimer(c, s.now + FEED_RTO_MAX_MS);
    if (owes(c) && !has(c, Flag.Timer)) {
      c.rtoMs = REPEAT_MIN_MS;
      startTimer(c, s.now + c.rtoMs);
    }
    // A client that had the last server's FIN says nothing more when the new one is as far.
    endIfOver(c);
    if (hasCaughtUp(c)) {
      c.flags &= ~(<u32> Flag.Fed);
      const mayBeCompared = (c.flags & (Flag.Hot | Flag.Logged | Flag.Kept)) != 0;
      if (!mayBeCompared) c.flags &= ~(<u32> Flag.Digested);
      if (!isStored(c)) clear(inputLog(c));
      clear(parkedFlight(c));
      if (c.phase < Phase.Closed) stopTimer(c);
      if (s.hint) settlePoint(c);
    }
    return;
  }
  if (c.reason == Reason.Joining) settleJoin(c);
  if (has(c, Flag.Logged)) settleWarm(c);
  if (
    s.commitMode != 0 || <i32> (c.legAck + s.logLimit - c.edgeReported) >= <i32> (s.logLimit >>> 2)
  ) {
    markDirty(c);
  }
}

/**
 * A server that is played what was said long ago has written all that the client had when it said its FIN; if it
 * may write less, nobody waits. One that follows hears the FIN when the other one does: should it hang, its end is
 * what shows that it goes on (lag.ts).
 */
function mayEnd(c: Connection): bool {
  const s = state();
  const isPlayed = has(c, Flag.Logged) || c.reason == Reason.Joining;
  if (!isPlayed || s.divergence == Divergence.Ignore) return true;
  if (!c.ahead && !before(c.sndNxt, c.finAck)) return true;
  const hasAll = c.legAck == c.finSeq;
  return s.commitMode == Commit.Ack && hasAll && s.now - c.spokeAt >= s.finWaitMs;
}

/**
 * True while octets are under way and our kernel has acknowledged none yet, so it may know nothing of the
 * connection: nothing is said that does not begin with the first octet. What passed to it directly before a
 * change of roles we cannot repeat, and need not: only its word of that may be missing.
 */
function isUnconfirmed(c: Connection): bool {
  return c.legAck == c.irs + 1 && c.legNxt != c.legAck && !before(c.legAck, c.logFrom);
}

function feed(c: Connection): void {
  const s = state();
  const ended = has(c, Flag.ClientFin) && c.rcvNxt == c.finSeq + 1;
  const dataEnd = ended ? c.finSeq : c.rcvNxt;
  const stop = earlier(dataEnd, later(c.legEdge, c.legNxt));
  const ack = deliveredTo(c);
  let sent = false;
  while (before(c.legNxt, stop) && !isUnconfirmed(c)) {
    if (!hasRoom()) {
      markPump(c);
      return;
    }
    const left = stop - c.legNxt;
    const length = left < SUPER_SEGMENT ? left : SUPER_SEGMENT;
    sendToServer(c, ACK | PSH, c.legNxt, ack, length);
    c.legNxt += length;
    sent = true;
  }
  if (ended && c.legNxt == c.finSeq && !isUnconfirmed(c) && mayEnd(c) && hasRoom()) {
    sendToServer(c, ACK | FIN, c.legNxt, ack, 0);
    c.legNxt++;
    sent = true;
  }
  const asked = (c.flags & (Flag.ForceAck | Flag.WindowMoved)) != 0;
  // While we owe, the client's ACK moves the window alone.
  if (!sent && !isUnconfirmed(c) && (after(ack, c.legUna) || asked || owes(c))) {
    sendToServer(c, ACK, c.legNxt, ack, 0);
    sent = true;
  }
  if (sent || !isUnconfirmed(c)) c.flags &= ~(<u32> (Flag.ForceAck | Flag.WindowMoved));
  if (c.phase == Phase.Closed) {
    // Its timer counts the time it lingers.
  } else if (c.legNxt != c.legAck) {
    if (!has(c, Flag.Timer)) {
      c.rtoMs = FEED_RTO_MIN_MS;
      startTimer(c, s.now + c.rtoMs);
    }
  } else if (before(c.legNxt, c.rcvNxt)) {
    // The kernel's window is closed: probe it now and then, as its update may have been dropped. Or the FIN
    // waits, see mayEnd().
    if (!has(c, Flag.Timer)) startTimer(c, s.now + FEED_RTO_MAX_MS);
  }
  // What the client has need not be parked.
  if (after(c.cliAck, c.parkBase)) {
    c.parkBase = c.cliAck;
    if (!before(c.cliAck, c.parkEnd)) {
      c.parkEnd = c.cliAck;
      clear(parkedFlight(c));
    } else trim(parkedFlight(c), c.parkBase);
  } else if (owes(c)) trim(parkedFlight(c), c.cliAck);
}

/** The local kernel has acknowledged input up to `ack` and takes octets up to `edge`. */
export function onServerAck(c: Connection, ack: u32, edge: u32): void {
  c.legEdge = later(c.legEdge, edge);
  if (edge - ack > c.legMax) c.legMax = edge - ack;
  if (!after(ack, c.legAck)) return;
  if (after(ack, c.rcvNxt)) {
    // Only octets that passed directly, before we stood between again, can be ahead of our log.
    if (!has(c, Flag.Taken) || after(ack, c.edgeShown)) return;
    cover(c, c.rcvNxt, ack, 0, null);
  }
  c.legAck = ack;
  if (after(ack, c.legNxt)) c.legNxt = ack;
  c.tries = 0;
  if (!isStored(c)) {
    if (ack == c.rcvNxt && !c.range) clear(inputLog(c));
    else trim(inputLog(c), ack);
  }
  if (c.leg == Leg.Open && c.phase < Phase.Closed && has(c, Flag.Timer)) {
    c.rtoMs = FEED_RTO_MIN_MS;
    if (c.legNxt == ack) stopTimer(c);
    else c.timerAt = state().now + c.rtoMs;
  }
}

/** The feeder's timer ran out. */
export function onFeederTimeout(c: Connection): void {
  const s = state();
  count(Counter.FeederTimeouts);
  c.rtoMs = c.rtoMs << 1;
  if (c.rtoMs < FEED_RTO_MIN_MS) c.rtoMs = FEED_RTO_MIN_MS;
  if (c.rtoMs > FEED_RTO_MAX_MS) c.rtoMs = FEED_RTO_MAX_MS;
  c.tries++;
  if (c.leg == Leg.SynSent) {
    if (c.tries > FEED_SYN_TRIES && !has(c, Flag.Logged)) {
      giveUpServer(c, Reason.StandbyRefused);
      return;
    }
    if (hasRoom()) sendSyn(c);
    startTimer(c, s.now + c.rtoMs);
    return;
  }
  if (c.leg != Leg.Open) return;
  const repeats = owes(c);
  if (repeats) c.parkBase = c.cliAck;
  if (c.legNxt != c.legAck) {
    if (before(c.legAck, c.logFrom)) {
      // After a change of roles the octets before logFrom are the kernel's own affair: it had them.
      if (c.tries > 20) giveUpServer(c, Reason.LegStalled);
      else startTimer(c, s.now + c.rtoMs);
      return;
    }
    if (c.tries > FEED_TRIES) {
      giveUpServer(c, Reason.LegStalled);
      return;
    }
    c.legNxt = c.legAck;
  } else if (repeats && c.tries > FEED_TRIES) {
    giveUpServer(c, Reason.LegStalled);
    return;
  } else {
    if (!repeats) c.tries = 0;
    c.flags |= Flag.ForceAck;
  }
  startTimer(c, s.now + c.rtoMs);
  markPump(c);
}

/** Keeps the timestamp clock that the client sees: never backwards, same tick (DESIGN 5.8). */
export function noteServerTimestamp(c: Connection, value: u32): void {
  c.legTs = value;
  c.legTsAt = state().now;
}
