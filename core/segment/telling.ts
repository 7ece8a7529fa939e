/**
 * telling.ts - log mode: telling again of a connection, from its first octet
 *
 * Theory of operation
 * A log on disk can only be cut off at its old end, so one connection that lives for long would keep all
 * that came after its beginning. Instead it is told of again, in the messages of today: an OPEN that
 * carries what has become of it since, then its input log piece by piece, between messages of new
 * traffic, then its progress. Who still has the older messages takes the OPEN for known and the rest for
 * repetition; who has them no longer takes it for the beginning. So at every moment either is enough.
 *
 *   | old segments: OPEN DATA ...  | ... OPEN again | DATA 1 .. | new DATA | .. DATA n | PROGRESS | ...
 *   '- needed no more once all that lies before a segment was told again ------------------'
 *
 * Limits: one record at a time, in their order; PIECE octets of it in one DATA.
 */
import { BODY_SIZE } from "../limits";
import { state } from "../state";
import { after, before } from "../wire/bytes";
import { at, Connection, Flag, has, Phase } from "../flow/connection";
import { markDirty } from "../flow/lifecycle";
import { DATA_HEAD, writeAgain, writeLogged } from "../records";
import { node } from "../stream/ranges";

const PIECE: u32 = 65536;
/** Room for an OPEN and for a piece that is worth its head. */
const ROOM_MIN: u32 = 512;

function isDue(c: Connection, below: u32): bool {
  return c.phase >= Phase.Half && c.phase < Phase.Closed && has(c, Flag.Hot | Flag.Logged) &&
    c.toldIn < below;
}

/** Tells again of records that began before segment `below`, in about `octets`; true when more remain. */
export function tellAgain(below: u32, octets: u32): bool {
  const s = state();
  const wanted = s.bodyUsed + octets;
  const stop = wanted < BODY_SIZE >> 1 ? wanted : BODY_SIZE >> 1;
  for (; s.tellNext < s.highWater; s.tellNext++) {
    const c = at(s.tellNext);
    if (s.telling && (c.generation != s.tellGeneration || !isDue(c, below))) s.telling = 0;
    if (!isDue(c, below)) continue;
    if (!s.telling) {
      if (s.bodyUsed + ROOM_MIN > stop || !writeAgain(c)) return true;
      s.telling = 1;
      s.tellGeneration = c.generation;
      s.tellSegment = s.segment;
      s.tellSeq = c.irs + 1;
    }
    if (!tellLog(c, stop)) return true;
    s.telling = 0;
    c.toldIn = s.tellSegment;
    markDirty(c);
  }
  s.tellNext = 0;
  return false;
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
