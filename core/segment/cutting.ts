/**
 * cutting.ts - what of a log need not be kept, as a hint says what both streams are
 *
 * Theory of operation
 * An input log is kept from the first octet because a server that is started anew has to be told all that
 * the one before it was. With `hint = "http/1.1"` the operator promises more: a server's answer depends on its
 * request alone. Then a connection of which n requests are answered is like one that begins with request n + 1:
 *
 *   client's stream     | request 1 | ... | request n |x request n + 1 ...
 *   server's stream     | answer 1  | ... | answer n  |y answer n + 1 ...
 *                                            ^ the client has acknowledged y: the log before x goes, and
 *                                              irs = x - 1, iss = y - 1, as if it had begun there
 *
 * Nothing else has to know: a server that is started anew gets a SYN with the number x - 1, its SYN-ACK's stands
 * for y - 1, and limits, digests and what is told to a standby count from there.
 *
 * Both streams are followed by stream/http_message.ts, the server's as it is digested; when an answer begins the
 * next request is read from the log. Messages that it cannot follow for sure, an answer without a request, and one
 * that ends before its request end the cutting of this connection for good (Uncut): it is kept whole as without
 * the hint. So a hint that is wrong from the first (another protocol) changes nothing.
 *
 * Digests. A server that is brought up from y writes what comes after y, so the digest has to begin there. When
 * the end of an answer is seen, its value is kept (cutValue) and it begins anew: a Point. Until the client has
 * acknowledged y and the log is cut, whoever comes from before y compares twice: cutValue at y, then what
 * came since.
 *
 *   primary, no Point ── answer ends at y ──> Passed ── client has y ──> cut
 *                                               |  ^
 *         the server is started anew, or a      v  |  our digest at y is cutValue, and begins anew
 *         standby is told of it (MARK)        Ahead┘
 *
 * What a hint cannot break: octets that the client may have are compared with what a server brought up from a cut
 * says, and the connection is reset if they differ (comparing.ts), as without it. What it promises away: a server
 * that remembers what was said before y (a login of the connection, a count in its answers) may answer other than
 * the one before it would have, where the client has no octet of that answer yet.
 *
 * The primary decides, and tells its standby or the disk: MARK when a Point is set, CUT when the log goes. In
 * hot mode, and where a warm standby follows (recovery.ts), its server must have come to y as well. A connection
 * that is just being told of to a standby is cut only when its log would be full soon, and then told anew
 * (telling.ts).
 *
 * Limits: one Point at a time, and only where CUT_INPUT or CUT_OUTPUT octets can go; FRAMING_MAX of
 * http_message.ts.
 */
import { BODY_SIZE, CUT_INPUT, CUT_OUTPUT } from "../limits";
import { count, Counter, countOctets, Hint, Role, state } from "../state";
import { after, before, later } from "../wire/bytes";
import {
  Connection,
  Flag,
  has,
  isAccepted,
  isBeingTold,
  isStored,
  Leg,
  Phase,
  Reason,
} from "../flow/connection";
import { answerOf, askOf, Comparison, comparisonOf, Point, pushMark } from "../flow/comparison";
import { ackSoon, inputLog } from "../flow/lifecycle";
import { AGAIN_SIZE, CUT_SIZE, MARK_SIZE, writeCut, writeMark } from "../records";
import { logEnd } from "./output";
import { leave } from "./recovery";
import { tellAnew } from "./telling";
import { placeOf, seek, trim } from "../stream/chain";
import { digestValue, emptyValue, extendDigest, startDigest } from "../stream/digest";
import {
  At,
  Fact,
  hasHead,
  isOver,
  skipBody,
  startMessage,
  takeMessage,
} from "../stream/http_message";

/** What a server that is started anew would not do again, had it not been told all. */
const ENDS: u32 = Flag.ServerFin | Flag.ResetHeld | Flag.Diverged | Flag.Uncut;

/** Both streams are read from their beginning, as our server will be played them. */
export function startReading(c: Connection, x: Comparison): void {
  x.askAt = c.irs + 1;
  startMessage(askOf(x), 0);
  startMessage(answerOf(x), Fact.IsResponse);
}

/** Our server's next octets, each once and in order: they are digested, and looked at for where answers end. */
export function takeOutput(c: Connection, x: Comparison, from: usize, length: u32): void {
  if (!state().hint || !isStored(c)) {
    extendDigest(x, from, length);
    return;
  }
  while (length) {
    const part = has(c, Flag.Uncut) ? length : readAnswer(c, x, from, length);
    extendDigest(x, from, part);
    if (answerOf(x).at == At.Done) endAnswer(c, x);
    from += part;
    length -= part;
  }
}

/** Reads on in an answer; returns how many octets belong to it. */
function readAnswer(c: Connection, x: Comparison, from: usize, length: u32): u32 {
  const answer = answerOf(x);
  if (answer.at == At.Start) {
    readAsk(c, x);
    const ask = askOf(x);
    // A server that speaks before it was asked speaks of something else.
    if (!hasHead(ask)) return lose(c, x, length);
    startMessage(answer, Fact.IsResponse | (ask.facts & Fact.Head));
  }
  const part = takeMessage(answer, from, length);
  return answer.at == At.Lost ? lose(c, x, length) : part;
}

/** Reads the client's stream to where the request that comes next ends, or as far as it is here. */
function readAsk(c: Connection, x: Comparison): void {
  const ask = askOf(x);
  const ended = has(c, Flag.ClientFin) && c.rcvNxt == c.finSeq + 1;
  const end = ended ? c.finSeq : c.rcvNxt;
  const log = inputLog(c);
  while (!isOver(ask) && before(x.askAt, end)) {
    const left = end - x.askAt;
    const body = skipBody(ask, left);
    if (body) {
      x.askAt += body;
      continue;
    }
    const part = seek(log, x.askAt, left);
    if (!part) return;
    x.askAt += takeMessage(ask, placeOf(log, x.askAt), part);
  }
}

/** An answer ends where our digest stands. */
function endAnswer(c: Connection, x: Comparison): void {
  const isInterim = (answerOf(x).facts & Fact.Interim) != 0;
  startMessage(answerOf(x), Fact.IsResponse);
  if (isInterim) return;
  readAsk(c, x);
  const ask = askOf(x);
  if (ask.at != At.Done) {
    // Whether the rest of the request is still to be said, its client alone knows.
    lose(c, x, 0);
    return;
  }
  startMessage(ask, 0);
  if (mayMark(c, x)) setPoint(c, x, x.askAt, x.base + x.at, Point.Passed, digestValue(x));
}

/** The connection is kept whole from now on. */
function lose(c: Connection, x: Comparison, length: u32): u32 {
  c.flags |= Flag.Uncut;
  startMessage(answerOf(x), Fact.IsResponse);
  count(Counter.CutsEnded);
  return length;
}

/** Whether the primary may say that an answer ends where its digest stands. */
function mayMark(c: Connection, x: Comparison): bool {
  const s = state();
  if (s.role != Role.Primary || x.point != Point.None || !canCut(c)) return false;
  const input = x.askAt - (c.irs + 1);
  if (input < CUT_INPUT && x.at < CUT_OUTPUT) return false;
  return !has(c, Flag.Hot) || s.bodyUsed + MARK_SIZE <= BODY_SIZE;
}

/** Whether a connection is as it must be for its log to be cut: served directly, and whole at who follows. */
function canCut(c: Connection): bool {
  const busy = Flag.Fed | Flag.Unproven | Flag.Unheard | ENDS;
  const isOpen = c.leg == Leg.Open && c.phase >= Phase.Open && c.phase < Phase.Closed;
  if ((c.flags & busy) != 0 || !isOpen || !isStored(c)) return false;
  if (isBeingTold(c)) return isPressing(c);
  return !has(c, Flag.Hot) || c.reason == Reason.None || c.reason == Reason.Joining;
}

/** One that is just being told of has to be told anew when it is cut: only if its log would be full soon. */
function isPressing(c: Connection): bool {
  const limit = has(c, Flag.Logged) ? logEnd(c) - (c.irs + 1) : state().keepLimit;
  return c.rcvNxt - (c.irs + 1) > limit >>> 1;
}

function setPoint(
  c: Connection,
  x: Comparison,
  input: u32,
  output: u32,
  point: Point,
  value: u64,
): void {
  x.cutIn = input;
  x.cutOut = output;
  x.cutValue = value;
  x.point = point;
  if (point != Point.Passed) return;
  beginDigest(x, output);
  if (has(c, Flag.Hot)) writeMark(c);
}

/** The digest begins anew at `output`. */
export function beginDigest(x: Comparison, output: u32): void {
  startDigest(x);
  x.base = output;
}

/** Our digest has come to a Point; false when it is not what it has to be. */
export function passPoint(x: Comparison): bool {
  if (digestValue(x) != x.cutValue) return false;
  x.point = Point.Passed;
  beginDigest(x, x.cutOut);
  return true;
}

/** The server, and with it the digest, begins anew: the Point lies ahead again. */
export function returnToBase(c: Connection, x: Comparison): void {
  if (x.point == Point.Passed) x.point = Point.Ahead;
  beginDigest(x, c.iss + 1);
  startReading(c, x);
}

/** A standby is told of a Point by MARK; false when our digest is past it. */
export function takePoint(c: Connection, input: u32, output: u32, value: u64): bool {
  const x = comparisonOf(c);
  // Told again, to a disk that knows it.
  if (x.point != Point.None && x.cutOut == output) return true;
  if (after(x.base + x.at, output) && !has(c, Flag.Logged)) return false;
  setPoint(c, x, input, output, Point.Ahead, value);
  if (!after(output, x.toldAt)) return true;
  x.toldAt = output;
  if (has(c, Flag.Logged)) {
    // As of the PROGRESS that says nothing more: see noteTold().
    x.markCount = 0;
    pushMark(x, output, emptyValue());
  }
  return true;
}

/** Primary: the client has acknowledged more, or the standby's server has written more: may the log be cut? */
export function settlePoint(c: Connection): void {
  const x = comparisonOf(c);
  if (x.point != Point.Passed || !hasCome(c, x) || !canCut(c)) return;
  cutAt(c, x);
}

/** Primary in log mode, whose server is gone: what its client has acknowledged needs no other server. */
export function settleLastPoint(c: Connection): void {
  const x = comparisonOf(c);
  const isTaken = x.point == Point.Passed && state().role == Role.Primary;
  if (isTaken && (c.flags & ENDS) == 0 && hasCome(c, x)) cutAt(c, x);
}

/** The client, and a server that follows ours, have all before the Point, and ours has read all before it. */
function hasCome(c: Connection, x: Comparison): bool {
  if (after(x.cutOut, c.cliAck) || after(x.cutIn, c.legAck)) return false;
  const isAlone = !has(c, Flag.Hot) || (has(c, Flag.Logged) && !c.warm) || isBeingTold(c);
  return isAlone || !before(x.peerSame, x.cutOut);
}

function cutAt(c: Connection, x: Comparison): void {
  const s = state();
  if (s.bodyUsed + CUT_SIZE + AGAIN_SIZE + MARK_SIZE > BODY_SIZE) return;
  if (has(c, Flag.Hot)) writeCut(c);
  cut(c, x);
  if (isBeingTold(c)) tellAnew(c);
}

/** A standby is told of a CUT; false when it is not one that can be. */
export function takeCut(c: Connection, input: u32, output: u32, shown: u32): bool {
  const x = comparisonOf(c);
  const isKnown = x.point == Point.Passed || (x.point == Point.Ahead && has(c, Flag.Logged));
  if (!isKnown || x.cutIn != input || x.cutOut != output || before(shown, output)) return false;
  if (before(input, c.irs + 1) || after(input, c.rcvNxt)) return false;
  // A warm standby's server that has not come there is played what comes after, as a new one would be.
  if (x.point == Point.Ahead && c.leg != Leg.None) leave(c);
  c.cliAck = later(c.cliAck, output);
  c.sndShown = later(c.sndShown, shown);
  cut(c, x);
  return true;
}

/** The connection begins at its Point from now on. */
function cut(c: Connection, x: Comparison): void {
  const input = x.cutIn;
  const output = x.cutOut;
  // A client that was slowed because its log was full is told at once that there is room again.
  const isFull = state().logHolds != 0 && !before(c.edgeShown, logEnd(c));
  if (isFull && state().role == Role.Primary) ackSoon(c);
  count(Counter.Cuts);
  countOctets(Counter.CutOctets, input - (c.irs + 1));
  if (isAccepted(c)) {
    c.bytesCut = c.bytesOut + c.ahead - <u64> <i64> <i32> (c.sndNxt - output);
  }
  c.outShown = <u64> (c.sndShown - output);
  c.irs = input - 1;
  c.iss = output - 1;
  c.logFrom = input;
  trim(inputLog(c), input);
  if (x.point == Point.Ahead) {
    // Nobody has read anything here.
    beginDigest(x, output);
    startReading(c, x);
    x.sameAt = output;
  }
  x.point = Point.None;
}
