/**
 * server.ts - a packet from the local server's side
 *
 *   server ── hf-app ──> parse ──> known? ──no──> primary: pass; standby: drop
 *                                    │yes
 *        SYN-ACK: ISS, options ──────┤ learn issDelta; announce the connection to the standby
 *        SEG.ACK, window ────────────┤ what the server has taken (feeder, clamp)
 *                                    ├─ primary: into client space, ACK and window as we may show
 *                                    │           them, then out when committed ──> hf-net
 *                                    └─ standby: octets into the parked flight, nothing leaves
 */
import { LINGER_MS, PARKED_MAX } from "../limits";
import { Commit, count, counted, Counter, isServed, Role, state } from "../state";
import { after, before, earlier, get16, later } from "../wire/bytes";
import {
  ACK,
  FIN,
  isFromService,
  Kind,
  OFF_FLAGS,
  parse,
  RST,
  setAck,
  setSeq,
  setTcp32,
  setTcp8,
  setWindow,
  SYN,
  tsVal,
  View,
  view,
} from "../wire/packet";
import {
  at,
  Connection,
  Flag,
  has,
  indexOf,
  isOver,
  isStored,
  isTold,
  Leg,
  Phase,
  Reason,
} from "../flow/connection";
import {
  ackSoon,
  checkClosed,
  markDirty,
  markDisputed,
  markPump,
  parkedFlight,
  parkFrom,
  release,
  startTimer,
  stopTimer,
  unprotect,
} from "../flow/lifecycle";
import { find } from "../flow/table";
import { write } from "../stream/chain";
import { CloseHow, writeAccept, writeClose, writeFail, writeOpen } from "../records";
import { drop } from "./apply";
import {
  compareOutput,
  digestOutput,
  digestProven,
  endsEarly,
  isDigested,
  isParking,
  startComparing,
} from "./comparing";
import { checkPeerEnd, holdFin, holdReset, isFinDue, isFollowed } from "./ending";
import { giveUpServer, hasCaughtUp, noteServerTimestamp, onServerAck, owes } from "./feeder";
import { takeAnswer } from "./probe";
import { goAhead, isWaiting, placeOutput } from "./recovery";
import { noteLife, wake } from "./lag";
import {
  hasRoom,
  noteShown,
  resetStranger,
  sendSyn,
  sendSynAck,
  shownAck,
  shownEdge,
  toClient,
  windowField,
} from "./output";
import { alignTimestamps } from "./takeover";

/** Takes one packet that came from hf-app. */
export function fromServer(packet: usize, length: u32): void {
  const s = state();
  count(Counter.FromServer);
  const kind = parse(packet, length);
  const v = view();
  if (kind == Kind.Malformed) {
    count(Counter.Malformed);
    return;
  }
  if (!isFromService(v)) {
    count(Counter.NotOurs);
    return;
  }
  const primary = s.role == Role.Primary;
  if (kind != Kind.Tcp || !isServed(v.sourcePort)) {
    if (primary) toClient(packet, length);
    return;
  }
  const destination = v.ip + (v.family == 4 ? 16 : 24);
  const v6 = v.family == 6;
  if (s.logMode && takeAnswer(v)) return;
  const index = find(
    load<u32>(destination),
    v6 ? load<u32>(destination, 4) : 0,
    v6 ? load<u32>(destination, 8) : 0,
    v6 ? load<u32>(destination, 12) : 0,
    v.destinationPort | (v.sourcePort << 16),
  );
  if (!index) {
    // Connections without a record are answers to strangers (RST) or those that began when the table
    // was full; whatever else speaks here is left from a former life. A SYN-ACK is too, when roles
    // changed under a handshake: it may pass when the client's SYN has come again and made a record.
    const tableFull = primary && counted(Counter.TableFull) != 0;
    const synAck = (v.flags & (SYN | ACK)) == (SYN | ACK);
    if ((v.flags & (RST | SYN)) == 0 && !tableFull) resetStranger(v);
    else if (primary && (tableFull || !synAck)) toClient(packet, length);
    return;
  }
  const c = at(index - 1);
  if (isLeftOver(c, v)) {
    if ((v.flags & RST) == 0) resetStranger(v);
    return;
  }
  c.seenAt = s.now;
  c.spokeAt = s.now;
  if ((v.flags & (SYN | ACK)) == (SYN | ACK)) onSynAck(c, v, primary);
  else if (v.flags & RST) onReset(c, v, primary);
  else if ((v.flags & ACK) != 0 && c.leg >= Leg.SynAck) {
    // A leg that was given up, whose kernel has not believed our RST: it says by which number it will.
    if (c.leg == Leg.Dead) resetStranger(v);
    else onSegment(c, v, primary);
  } else if (primary && !has(c, Flag.Fed) && !replaceLeftOver(c, v)) toClient(v.at, v.length);
}

/**
 * A socket that a daemon or a server before ours has left at the client's numbers answers the client's SYN. The
 * client would reset it and say its SYN once more (RFC 9293 section 3.5.1): that is done in its place, once, so that
 * it waits for nothing. False when it is the client's own affair.
 */
function replaceLeftOver(c: Connection, v: View): bool {
  const isSigned = c.reason == Reason.Md5 || c.reason == Reason.AuthOption;
  const isMeant = c.phase == Phase.Syn && (v.flags & ACK) != 0 && !has(c, Flag.Asked) && !isSigned;
  if (!isMeant || c.tries || !hasRoom()) return false;
  c.tries++;
  resetStranger(v);
  sendSyn(c);
  return true;
}

/**
 * Whether a socket says it that a server before ours has left behind: in log mode, or in answer to our SYN,
 * which its kernel takes no new connection from until that socket is gone (RFC 9293 section 3.5.1).
 */
function isLeftOver(c: Connection, v: View): bool {
  if (isWaiting(c)) return true;
  if (!has(c, Flag.Fed)) return false;
  if (c.leg == Leg.SynSent) return (v.flags & (SYN | RST)) == 0;
  return has(c, Flag.Logged) && (c.leg == Leg.None || c.leg == Leg.Dead);
}

function onSynAck(c: Connection, v: View, primary: bool): void {
  if (c.leg >= Leg.SynAck && v.seq + c.issDelta == c.iss && v.ack == c.irs + 1) {
    // The same SYN-ACK again.
    if (c.leg == Leg.Open || !primary) {
      if (c.leg == Leg.Open && has(c, Flag.Fed)) {
        c.flags |= Flag.ForceAck;
        markPump(c);
        return;
      }
      if (!primary) return;
    }
    if (has(c, Flag.Fed)) sendSynAck(c);
    else {
      if (c.issDelta) setSeq(v, c.iss);
      if (c.tsDelta && v.tsAt) setTcp32(v, v.tsAt, tsVal(v) + c.tsDelta);
      clampMss(v);
      toClient(v.at, v.length);
    }
    return;
  }
  if (c.leg == Leg.SynSent && v.ack == c.irs + 1) {
    if (has(c, Flag.Fed)) learnLeg(c, v, primary);
    else learnClientSpace(c, v);
    return;
  }
  if (has(c, Flag.Logged | Flag.Fed)) {
    // Its last ACK was lost, and its numbers have moved since: see goAhead().
    c.flags |= Flag.ForceAck;
    markPump(c);
    return;
  }
  // The kernel has forgotten this connection and takes the client's new SYN for a fresh start.
  if (primary && !has(c, Flag.Fed) && v.ack == c.synIss + 1) {
    if (isTold(c)) writeClose(c, CloseHow.Dropped, 0);
    release(c);
  }
  if (primary) toClient(v.at, v.length);
}

/** This kernel's SYN-ACK is the first the client sees: its ISS becomes ISS.client. */
function learnClientSpace(c: Connection, v: View): void {
  const s = state();
  c.iss = v.seq;
  c.issDelta = 0;
  c.tsDelta = 0;
  c.phase = Phase.Half;
  c.leg = Leg.SynAck;
  agree(c, v);
  clampMss(v);
  c.srvMss = v.mssAt ? get16(v.tcp + v.mssAt) : 536;
  c.srvWs = c.legWs;
  c.sndNxt = v.seq + 1;
  c.sndShown = c.sndNxt;
  c.cliAck = v.seq;
  c.legUna = v.seq;
  parkFrom(c, c.sndNxt);
  c.peerSnd = c.sndNxt;
  c.ackShown = c.irs + 1;
  c.legAck = c.irs + 1;
  c.legEdge = c.irs + 1 + v.window;
  c.edgeShown = c.legEdge;
  c.legMax = v.window;
  c.peerRead = c.irs + 1;
  c.cliWnd = c.synWindow >>> c.cliWs;
  if (v.tsAt) {
    noteServerTimestamp(c, tsVal(v));
    c.tsShown = c.legTs;
    c.tsClock = c.legTs - s.now;
  }
  if (c.reason != Reason.None) {
    toClient(v.at, v.length);
    return;
  }
  if (s.logMode) c.flags |= Flag.Logged;
  else if (s.keepLimit) c.flags |= Flag.Kept;
  if (s.standbyReady && writeOpen(c, false)) {
    c.flags |= Flag.Hot;
    // A standby that runs no server has nothing to wait for.
    c.reason = s.logMode ? Reason.None : Reason.Pending;
    c.peerNxt = c.rcvNxt;
    c.peerEdge = c.rcvNxt + s.peerLogLimit;
    startComparing(c);
  } else {
    unprotect(c, Reason.NoStandby);
    if (isStored(c)) startComparing(c);
    if (!s.logMode) count(Counter.Unprotected);
  }
  toClient(v.at, v.length);
}

/** What both ends agreed on: an option counts only when the SYN-ACK repeats it. */
function agree(c: Connection, v: View): void {
  if (!v.tsAt) c.flags &= ~(<u32> Flag.TsOk);
  if (!v.hasSackPermitted) c.flags &= ~(<u32> Flag.SackOk);
  if (v.wsAt && has(c, Flag.WsOk)) {
    const scale: u32 = load<u8>(v.tcp + v.wsAt);
    c.legWs = scale > 14 ? 14 : scale;
  } else {
    c.flags &= ~(<u32> Flag.WsOk);
    c.cliWs = 0;
    c.legWs = 0;
  }
}

/** Our server answered the feeder's SYN: now both spaces are known. */
function learnLeg(c: Connection, v: View, primary: bool): void {
  const s = state();
  const stamped = has(c, Flag.TsOk);
  if (
    stamped != (v.tsAt != 0) || has(c, Flag.SackOk) != (v.hasSackPermitted != 0) ||
    has(c, Flag.WsOk) != (v.wsAt != 0)
  ) {
    c.leg = Leg.SynAck;
    c.issDelta = c.iss - v.seq;
    giveUpServer(c, primary && has(c, Flag.Logged) ? Reason.ReplayDiffers : Reason.StandbyDiffers);
    return;
  }
  if (v.wsAt) {
    const scale: u32 = load<u8>(v.tcp + v.wsAt);
    c.legWs = scale > 14 ? 14 : scale;
  }
  c.leg = Leg.SynAck;
  if (c.phase != Phase.Closed) stopTimer(c);
  placeOutput(c, v.seq);
  c.legUna = c.sndNxt - 1;
  parkFrom(c, c.sndNxt);
  c.legAck = c.irs + 1;
  c.legNxt = c.legAck;
  c.legEdge = c.legAck + v.window;
  c.legMax = v.window;
  c.tries = 0;
  if (stamped) {
    noteServerTimestamp(c, tsVal(v));
    if (primary) alignTimestamps(c);
  }
  if (!primary && has(c, Flag.Asked)) {
    writeAccept(c);
    drop(c);
    return;
  }
  if (primary && c.phase == Phase.Half) sendSynAck(c);
  markPump(c);
  if (!primary) {
    if (c.reason == Reason.Pending) c.reason = Reason.None;
    markDirty(c);
  }
}

/** Lowers the MSS a client is told to what every replica can carry. */
function clampMss(v: View): void {
  const s = state();
  if (!s.mssMax || !v.mssAt || get16(v.tcp + v.mssAt) <= s.mssMax) return;
  setTcp8(v, v.mssAt, s.mssMax >>> 8);
  setTcp8(v, v.mssAt + 1, s.mssMax & 0xff);
  count(Counter.MssClamped);
}

function onReset(c: Connection, v: View, primary: bool): void {
  const s = state();
  if (!primary) {
    // A full backlog may refuse now and take the next SYN: the feeder's timer tries again.
    if (c.leg == Leg.SynSent) {
      if (!has(c, Flag.Asked)) return;
      writeFail(indexOf(c), c.generation, Reason.StandbyRefused);
      release(c);
      return;
    }
    if (c.leg == Leg.Hung) noteLife();
    if (c.phase != Phase.Closed) giveUpServer(c, Reason.StandbyReset);
    return;
  }
  if (c.phase == Phase.Syn) {
    // A port that nobody listens at, or one whose server died? The standby's kernel can tell.
    if (has(c, Flag.Asked)) return;
    if (s.logMode) {
      // Its SYN waits here until a server listens, unless one lives that does not want it.
      if (!s.feeding) return;
      c.flags |= Flag.Asked;
      markDisputed(c);
      return;
    }
    if (s.standbyReady && c.reason == Reason.None && writeOpen(c, true)) {
      c.flags |= Flag.Asked;
      markDisputed(c);
      return;
    }
    toClient(v.at, v.length);
    release(c);
    return;
  }
  if (c.leg == Leg.SynSent) return;
  if (isFollowed(c)) {
    holdReset(c);
    return;
  }
  if (isOver(c)) return;
  setSeq(v, v.seq + c.issDelta);
  if (c.tsDelta && v.tsAt) setTcp32(v, v.tsAt, tsVal(v) + c.tsDelta);
  if (v.flags & ACK) setAck(v, later(v.ack, c.ackShown));
  if (c.phase != Phase.Closed) {
    if (isTold(c)) writeClose(c, CloseHow.ServerReset, 0);
    c.flags |= Flag.ServerReset;
    c.flags &= ~(<u32> (Flag.Hot | Flag.Fed));
    c.phase = Phase.Closed;
    count(Counter.Closed);
  }
  startTimer(c, s.now + LINGER_MS);
  toClient(v.at, v.length);
}

function onSegment(c: Connection, v: View, primary: bool): void {
  const s = state();
  const fin = (v.flags & FIN) != 0;
  if (c.ahead && !goAhead(c, v.seq + c.issDelta, v.payload, v.payloadLength)) return;
  const seq = v.seq + c.issDelta;
  const end = seq + v.payloadLength + (fin ? 1 : 0);
  const fed = has(c, Flag.Fed);
  const hot = has(c, Flag.Hot);
  if (c.leg == Leg.Hung) {
    wake(c, end, v.ack, v.ack + (v.window << c.legWs), fin);
    return;
  }
  if (!fed && !hot && !isStored(c)) c.rcvNxt = later(c.rcvNxt, v.ack);
  onServerAck(c, v.ack, v.ack + (v.window << c.legWs));
  if (v.tsAt) {
    const value = tsVal(v);
    if (!before(value, c.legTs)) noteServerTimestamp(c, value);
  }
  const digested = has(c, Flag.Digested);
  const gap = digested && after(seq, c.sndNxt);
  const fresh = !gap && after(end, c.sndNxt);
  const parking = !primary || isParking(c);
  if (digested && (v.payloadLength || fin)) {
    if (fed) markPump(c);
    if (gap) {
      // What lies before it was lost on the way from the kernel, which will repeat both.
      count(Counter.OutOfOrder);
      return;
    }
    if (fresh && !parking) digestOutput(c, seq, v.payload, v.payloadLength);
    else if (fresh && !keep(c, seq, v.payload, v.payloadLength)) return;
  }
  if (fresh) {
    c.bytesOut += <u64> (end - c.sndNxt);
    c.sndNxt = end;
  }
  if (fin && !primary && has(c, Flag.Logged) && before(end, c.sndShown)) {
    // It ends before the octet that the client has from the primary's.
    giveUpServer(c, Reason.ReplayDiffers);
    return;
  }
  if (fin && !has(c, Flag.ServerFin)) {
    c.flags |= Flag.ServerFin;
    c.srvFin = end - 1;
    if (c.phase == Phase.Open) c.phase = Phase.Closing;
    if (!primary) {
      markDirty(c);
      if (has(c, Flag.Logged)) markDisputed(c);
    } else if (fed && has(c, Flag.Logged) && endsEarly(c)) holdFin(c);
  }
  if (fed) {
    // A probe or a repetition of what was acknowledged asks for an ACK.
    if (!fresh && (v.payloadLength || fin || before(seq, c.sndNxt))) c.flags |= Flag.ForceAck;
    markPump(c);
  }
  if (!primary) {
    if (v.payloadLength && !(digested && fresh)) park(c, seq, v.payload, v.payloadLength);
    if (fresh && has(c, Flag.PeerFin) && after(end, c.peerSnd)) markDirty(c);
    return;
  }
  if (fresh && has(c, Flag.PeerFin)) checkPeerEnd(c);
  // A server that follows may be late to see that: a client that has forgotten the connection would answer with a RST.
  if (isOver(c)) return;
  if (parking || gap) {
    if (v.payloadLength && digested && !fresh) park(c, seq, v.payload, v.payloadLength);
    // What it acknowledges the client is told with numbers that it knows, and nothing that it knows: one that
    // has forgotten the connection would answer with a RST.
    if (!v.payloadLength && !fin && (before(seq, c.sndNxt) || hasNews(c))) ackSoon(c);
    return;
  }
  // A FIN that was held is repeated by its kernel meanwhile. A client that has it may know the
  // connection no more and would answer with a RST.
  if (fin && !fed && !v.payloadLength && !after(end, c.cliAck)) return;
  if (fed) {
    if ((v.payloadLength || fin) && !after(end, c.cliAck)) return; // the client has all of it
    if (!v.payloadLength && !fin) {
      // Acknowledges the feeder; the client cares only for what it has not been shown. A window or
      // keep-alive probe goes on to it: its answer may tell of a window that opened meanwhile.
      const probe = before(seq, c.sndNxt);
      const news = hasNews(c);
      if (!probe && !news) return;
      if (before(seq, c.cliAck - 1)) {
        // The client drops what is so old: it hears the news in numbers of its own time.
        if (news) ackSoon(c);
        return;
      }
    }
    if (after(end, c.parkEnd) && c.parkBase == c.parkEnd) parkFrom(c, end);
  }
  // The server counts a FIN that the client has not been told of yet.
  const finShown = fin && isFinDue(c);
  const untold = has(c, Flag.FinHeld) && after(seq, c.srvFin);
  if (c.issDelta || untold) setSeq(v, untold ? c.srvFin : seq);
  if (v.tsAt) {
    const value = tsVal(v) + c.tsDelta;
    // Our picture of the kernel's clock may be a pass too fast: then it waits for the clock.
    const shown = before(value, c.tsShown) && has(c, Flag.Taken) ? c.tsShown : value;
    if (c.tsDelta || shown != value) setTcp32(v, v.tsAt, shown);
    c.tsShown = later(c.tsShown, shown);
    c.tsClock = later(c.tsClock, shown - s.now);
  }
  // ACK and window as the client may see them; on an unclamped direct connection as they are.
  const ack = shownAck(c);
  const edge = shownEdge(c);
  if (ack != v.ack || c.legWs != c.srvWs || edge != v.ack + (v.window << c.legWs)) {
    const window = windowField(c, ack, edge);
    if (
      s.commitMode == Commit.Ack && hot && ack != v.ack && !v.payloadLength && !fin &&
      ack == c.ackShown && !after(ack + (window << c.srvWs), c.edgeShown)
    ) {
      // Clamped to what it already said it would only be a duplicate ACK (RFC 5681 section 2).
      count(Counter.AcksDropped);
      return;
    }
    if (v.ack != ack) setAck(v, ack);
    if (v.window != window) setWindow(v, window);
  }
  if (fin && !finShown) {
    if (!v.payloadLength && !after(ack, c.ackShown) && !after(edge, c.edgeShown)) return;
    setTcp8(v, OFF_FLAGS, v.flags & ~FIN);
  }
  noteShown(c, ack, v.window);
  const told = fin && !finShown ? end - 1 : end;
  if (after(told, c.sndShown)) {
    c.sndShown = told;
    if (hot) markDirty(c);
  }
  checkClosed(c);
  if (fed && hasCaughtUp(c)) markPump(c);
  toClient(v.at, v.length);
}

/** More of its octets are acknowledged, or its window is wider, than the client was shown. */
function hasNews(c: Connection): bool {
  return after(shownEdge(c), c.edgeShown) || after(shownAck(c), c.ackShown);
}

/** Compares and keeps new octets of our server; false when they were not taken. */
function keep(c: Connection, seq: u32, from: usize, length: u32): bool {
  if (!compareOutput(c, seq, from, length)) return false;
  // Also what the client has already, and is not parked: nothing may be missing in what is compared later.
  if (state().role == Role.Primary) digestProven(c, seq, from, length);
  return park(c, seq, from, length) || isDigested(c, seq + length);
}

/** Keeps what our server has said and the client may lack; false when there is no place for it. */
function park(c: Connection, seq: u32, from: usize, length: u32): bool {
  const end = seq + length;
  if (!after(end, c.cliAck)) return true;
  // The client has all that is parked, and more.
  if (before(c.parkEnd, c.cliAck)) parkFrom(c, c.cliAck);
  // Octets before it were lost on the way here; the kernel will repeat them after a takeover.
  if (c.parkBase == c.parkEnd && after(seq, c.parkEnd) && !owes(c)) parkFrom(c, seq);
  if (after(seq, c.parkEnd)) return false;
  if (!after(end, c.parkEnd)) return true;
  const skip = c.parkEnd - seq;
  if (end - earlier(c.parkBase, c.cliAck) > PARKED_MAX) {
    count(Counter.ParkedOverflow);
    return false;
  }
  const chain = parkedFlight(c);
  if (!write(chain, c.parkEnd, c.parkEnd, from + skip, length - skip)) {
    count(Counter.ParkedOverflow);
    return false;
  }
  c.parkEnd = end;
  count(Counter.ParkedSegments);
  return true;
}
