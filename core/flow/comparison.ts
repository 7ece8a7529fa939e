/**
 * comparison.ts - what a connection's output is compared by
 *
 * One for each record, at the same index. The primary's digest covers all that its server has written.
 * A standby's goes as far as the primary has told, or as far as its own server has written, whichever
 * is less; what lies beyond is parked until it is told (segment/comparing.ts).
 *
 *   iss + 1           sameAt           digestEnd          toldAt
 *   |=== compared ====|--- digested ---|                  |      sameAt <= digestEnd
 *                     marks: [offset, digest] that the primary has told and ours has yet to reach
 *
 * The digest begins at `base`: at iss + 1, or, with a hint, at the end of an answer where the log is to be cut
 * (segment/cutting.ts).
 *
 * Limits: MARKS for each connection; when they are all taken the newest replaces the newest, as it
 * covers what that one did. So the first difference is seen somewhat later, and none is lost.
 */
import { state } from "../state";
import { Digest } from "../stream/digest";
import { Message } from "../stream/http_message";
import { Connection, indexOf } from "./connection";

/** Digests that may wait for our own server. */
export const MARKS: u32 = 8;
/** | digest u64 | sequence number u32 | */
const MARK: u32 = 12;

/** A connection's digest and what the other replica has told of its own. */
@unmanaged
export class Comparison extends Digest {
  /** Up to here the primary has told a digest, in client space. */
  toldAt: u32 = 0;
  /** Up to here both servers have written the same. */
  sameAt: u32 = 0;
  /** Primary: up to here the standby has found its server's output to be ours. */
  peerSame: u32 = 0;
  markCount: u32 = 0;
  /** First octet that the digest covers, in client space. */
  base: u32 = 0;
  // Where the log can be cut, and the messages that tell (segment/cutting.ts).
  /** `Point`: what is known of cutIn, cutOut and cutValue. */
  point: u32 = 0;
  /** Next octet of the client's stream that is looked at. */
  askAt: u32 = 0;
  /** A request ends before this octet of the client's stream. */
  cutIn: u32 = 0;
  /** The answer to it, and to all before it, ends before this octet of the server's. */
  cutOut: u32 = 0;
  /** The digest up to there. */
  cutValue: u64 = 0;
}

/** What is known of a place where the log can be cut. */
export const enum Point {
  None = 0,
  /** Our digest has yet to come there, and to be cutValue. */
  Ahead,
  /** Our digest begins there: it was cutValue. */
  Passed,
}

const ASK_AT: u32 = (offsetof<Comparison>() + 7) & ~7;
const ANSWER_AT: u32 = ASK_AT + offsetof<Message>();
const MARKS_AT: u32 = ANSWER_AT + offsetof<Message>();
/** Octets of one of these. */
export const COMPARISON_SIZE: u32 = (MARKS_AT + MARKS * MARK + 7) & ~7;

/** The comparison of a connection. */
export function comparisonOf(c: Connection): Comparison {
  return changetype<Comparison>(state().comparisons + <usize> indexOf(c) * COMPARISON_SIZE);
}

/** The client's request that is being read. */
export function askOf(x: Comparison): Message {
  return changetype<Message>(changetype<usize>(x) + ASK_AT);
}

/** The server's answer that is being read. */
export function answerOf(x: Comparison): Message {
  return changetype<Message>(changetype<usize>(x) + ANSWER_AT);
}

function mark(x: Comparison, index: u32): usize {
  return changetype<usize>(x) + MARKS_AT + index * MARK;
}

/** Remembers what the primary's digest is at `seq`, later than all before. */
export function pushMark(x: Comparison, seq: u32, value: u64): void {
  if (x.markCount < MARKS) x.markCount++;
  const to = mark(x, x.markCount - 1);
  store<u64>(to, value);
  store<u32>(to, seq, 8);
}

/** Where the first mark stands; there must be one. */
export function markSeq(x: Comparison): u32 {
  return load<u32>(mark(x, 0), 8);
}

/** The digest of the last mark; there must be one. */
export function lastValue(x: Comparison): u64 {
  return load<u64>(mark(x, x.markCount - 1));
}

/** The digest of the first mark; there must be one. */
export function markValue(x: Comparison): u64 {
  return load<u64>(mark(x, 0));
}

/** Takes the first mark off; there must be one. */
export function takeMark(x: Comparison): void {
  const first = mark(x, 0);
  x.markCount--;
  memory.copy(first, first + MARK, x.markCount * MARK);
}
