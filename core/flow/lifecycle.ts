/**
 * lifecycle.ts - birth and death of records, and the lists they wait in
 *
 *   free     stack through nextFree, of those that were in use before, then the first that was not; a
 *            standby does not use it: its primary names the record
 *   timers   doubly linked, newest first; every record with timerAt set
 *   dirty    records whose progress the peer should hear; a queue, served in turn
 *   pump     records whose feeder or acknowledgement is due in this pass; emptied every pass
 *   disputed records that one replica's server alone has ended, oldest first
 *
 * A freed record may still stand in dirty, pump or disputed: its flag stays set, and whoever takes it off the
 * queue finds it free or reborn, which is harmless.
 */
import { LINGER_MS } from "../limits";
import { count, Counter, state } from "../state";
import { after } from "../wire/bytes";
import {
  at,
  Connection,
  Flag,
  has,
  indexOf,
  isAccepted,
  isBeingTold,
  Leg,
  Phase,
  Reason,
} from "./connection";
import { insert, remove } from "./table";
import { Chain, clear, trim } from "../stream/chain";
import { clearRanges } from "../stream/ranges";
import { RECORD_SIZE } from "./connection";
import { CloseHow, writeClose } from "../records";

/** A connection's input log. */
export function inputLog(c: Connection): Chain {
  return changetype<Chain>(changetype<usize>(c) + offsetof<Connection>("logHead"));
}

/** A connection's parked flight. */
export function parkedFlight(c: Connection): Chain {
  return changetype<Chain>(changetype<usize>(c) + offsetof<Connection>("parkHead"));
}

/** Nothing is parked, and what will be begins at `seq`: a flight with a hole in it could not be told from a whole one. */
export function parkFrom(c: Connection, seq: u32): void {
  clear(parkedFlight(c));
  c.parkBase = seq;
  c.parkEnd = seq;
}

const QUEUED: u32 = Flag.Dirty | Flag.Pump | Flag.Disputed;
/** What waits for a standby's word, and need not wait when there is none. */
const WAITING: u32 = Flag.FinHeld | Flag.ResetHeld;

/** Makes the record at `index` a new one with this key; it must be free. */
export function occupy(
  index: u32,
  c0: u32,
  c1: u32,
  c2: u32,
  c3: u32,
  ports: u32,
): Connection {
  const s = state();
  const c = at(index);
  const flags = c.flags & QUEUED;
  const nextDirty = c.nextDirty;
  const nextPump = c.nextPump;
  const nextDisputed = c.nextDisputed;
  memory.fill(changetype<usize>(c), 0, RECORD_SIZE);
  c.flags = flags;
  c.nextDirty = nextDirty;
  c.nextPump = nextPump;
  c.nextDisputed = nextDisputed;
  c.c0 = c0;
  c.c1 = c1;
  c.c2 = c2;
  c.c3 = c3;
  c.ports = ports;
  c.openedAt = s.now;
  c.seenAt = s.now;
  insert(c);
  s.recordsUsed++;
  if (index >= s.highWater) s.highWater = index + 1;
  return c;
}

/** Index + 1 of a free record, 0 when all are in use even after the oldest closed one was dropped. */
export function freeIndex(): u32 {
  const s = state();
  if (!s.freeRecord) {
    if (s.highWater < s.capacity) return s.highWater + 1;
    // Closed records that only linger are the first to go; the oldest stand at the tail.
    let index = s.timerTail;
    for (let i = 0; i < 64 && index; i++) {
      const c = at(index - 1);
      if (c.phase == Phase.Closed) {
        release(c);
        break;
      }
      index = c.prevTimer;
    }
  }
  const index = s.freeRecord;
  if (index) s.freeRecord = at(index - 1).nextFree;
  return index;
}

/** Frees what a connection holds of both streams: it goes on without us, or not at all. */
export function dropOctets(c: Connection): void {
  c.flags &= ~(<u32> Flag.Kept);
  clear(inputLog(c));
  clear(parkedFlight(c));
  clearRanges(c);
}

/** Frees a record and everything it holds. */
export function release(c: Connection): void {
  const s = state();
  if (c.phase == Phase.Free) return;
  remove(c);
  stopTimer(c);
  dropOctets(c);
  c.phase = Phase.Free;
  c.leg = Leg.None;
  c.flags &= QUEUED;
  c.nextFree = s.freeRecord;
  s.freeRecord = indexOf(c) + 1;
  s.recordsUsed--;
}

/** Hot mode: no standby that comes later can be played this connection any more. */
export function stopKeeping(c: Connection): void {
  if (!has(c, Flag.Kept)) return;
  // One that is told again for the sake of others further down stays what it is.
  if (isBeingTold(c) && has(c, Flag.Hot) && c.reason == Reason.Joining) {
    writeClose(c, CloseHow.Dropped, 0);
    goAlone(c, Reason.NotKept);
  }
  c.flags &= ~(<u32> Flag.Kept);
  if (has(c, Flag.Fed)) trim(inputLog(c), c.legAck);
  else clear(inputLog(c));
  if ((c.flags & (Flag.Hot | Flag.Fed)) == 0) clearRanges(c);
  if ((c.flags & (Flag.Hot | Flag.Fed | Flag.Unproven)) == 0) c.flags &= ~(<u32> Flag.Digested);
}

/** Whether octets up to `end` are more than is kept of a connection. */
export function isPastKept(c: Connection, end: u32): bool {
  const s = state();
  return after(end, c.irs + 1 + s.keepLimit) || s.blocksFree < s.blockCount >>> 1;
}

/** Both sides have finished: nobody is played this connection again. */
export function dropLog(c: Connection): void {
  stopKeeping(c);
  // A feeder that is still behind goes on for as long as the record lingers.
  const isBehind = has(c, Flag.Fed) && (isAccepted(c) || c.leg == Leg.SynSent);
  if (!has(c, Flag.Logged) || isBehind) return;
  clear(inputLog(c));
  clearRanges(c);
}

/**
 * Stacks the free records that were in use before, lowest index on top; after a change of role. All the
 * others are not even touched: a look at 65,536 took 1.2 ms of each takeover, and 44 MB of memory.
 */
export function rebuildFree(): void {
  const s = state();
  s.freeRecord = 0;
  for (let i = s.highWater; i > 0; i--) {
    const c = at(i - 1);
    if (c.phase != Phase.Free) continue;
    c.nextFree = s.freeRecord;
    s.freeRecord = i;
  }
}

/** The connection is not protected from now on, for `reason`. */
export function unprotect(c: Connection, reason: Reason): void {
  if (c.reason == Reason.None || c.reason == Reason.Pending || c.reason == Reason.Joining) {
    c.reason = reason;
  }
  c.flags &= ~(<u32> Flag.Hot);
  c.warm = 0;
  // Nobody compares any more; what has to be before the client hears it still has to.
  if ((c.flags & (Flag.Unproven | Flag.Logged | Flag.Kept)) == 0) c.flags &= ~(<u32> Flag.Digested);
  if (c.flags & WAITING) markPump(c);
}

/** Goes on without the standby for this connection, for `reason`. */
export function goAlone(c: Connection, reason: Reason): void {
  if (c.phase == Phase.Closed) {
    c.flags &= ~(<u32> Flag.Hot);
    return;
  }
  unprotect(c, reason);
  count(Counter.Unprotected);
  ackSoon(c);
}

/**
 * The client is told at once what it may be shown. Not when both sides have finished: its kernel may
 * have forgotten the connection, and would answer with a RST.
 */
export function ackSoon(c: Connection): void {
  if (c.phase == Phase.Closed) return;
  c.flags |= Flag.AckClient;
  markPump(c);
}

/** Both directions are finished and acknowledged: the record only lingers from here on. */
export function checkClosed(c: Connection): void {
  if (c.phase != Phase.Closing && c.phase != Phase.Open) return;
  // An end that is held was not said, though it may stand before what the client has.
  if (!has(c, Flag.ClientFin | Flag.ServerFin) || has(c, Flag.FinHeld)) return;
  if (!after(c.ackShown, c.finSeq) || !after(c.cliAck, c.srvFin)) return;
  c.phase = Phase.Closed;
  dropLog(c);
  // A log's place is free here: who keeps the same log must not need more than we do.
  if (state().logMode && has(c, Flag.Hot) && writeClose(c, CloseHow.Normal, c.cliAck)) {
    c.flags &= ~(<u32> Flag.Hot);
  }
  count(Counter.Closed);
  startTimer(c, state().now + LINGER_MS);
}

/** Runs the record's timer at `deadline` (milliseconds of State.now). */
export function startTimer(c: Connection, deadline: u32): void {
  const s = state();
  c.timerAt = deadline;
  if (has(c, Flag.Timer)) return;
  c.flags |= Flag.Timer;
  const index = indexOf(c) + 1;
  c.prevTimer = 0;
  c.nextTimer = s.timerHead;
  if (s.timerHead) at(s.timerHead - 1).prevTimer = index;
  else s.timerTail = index;
  s.timerHead = index;
}

/** Takes the record off the timer list. */
export function stopTimer(c: Connection): void {
  if (!has(c, Flag.Timer)) return;
  const s = state();
  c.flags &= ~(<u32> Flag.Timer);
  if (c.prevTimer) at(c.prevTimer - 1).nextTimer = c.nextTimer;
  else s.timerHead = c.nextTimer;
  if (c.nextTimer) at(c.nextTimer - 1).prevTimer = c.prevTimer;
  else s.timerTail = c.prevTimer;
  c.nextTimer = 0;
  c.prevTimer = 0;
}

/** The peer should hear how far this connection is. */
export function markDirty(c: Connection): void {
  if (has(c, Flag.Dirty)) return;
  const s = state();
  c.flags |= Flag.Dirty;
  c.nextDirty = 0;
  const index = indexOf(c) + 1;
  if (s.dirtyTail) at(s.dirtyTail - 1).nextDirty = index;
  else s.dirtyHead = index;
  s.dirtyTail = index;
}

/** Takes the first dirty record, or 0. */
export function takeDirty(): u32 {
  const s = state();
  const index = s.dirtyHead;
  if (!index) return 0;
  const c = at(index - 1);
  s.dirtyHead = c.nextDirty;
  if (!s.dirtyHead) s.dirtyTail = 0;
  c.nextDirty = 0;
  c.flags &= ~(<u32> Flag.Dirty);
  return index;
}

/** The feeder, or an ACK to the client, is due in this pass. */
export function markPump(c: Connection): void {
  if (has(c, Flag.Pump)) return;
  const s = state();
  c.flags |= Flag.Pump;
  c.nextPump = 0;
  const index = indexOf(c) + 1;
  if (s.pumpTail) at(s.pumpTail - 1).nextPump = index;
  else s.pumpHead = index;
  s.pumpTail = index;
}

/** Takes the first record to pump, or 0. */
export function takePump(): u32 {
  const s = state();
  const index = s.pumpHead;
  if (!index) return 0;
  const c = at(index - 1);
  s.pumpHead = c.nextPump;
  if (!s.pumpHead) s.pumpTail = 0;
  c.nextPump = 0;
  c.flags &= ~(<u32> Flag.Pump);
  return index;
}

/** One server alone has ended this connection: the other gets its time to follow. */
export function markDisputed(c: Connection): void {
  const s = state();
  c.disputedAt = s.now;
  if (has(c, Flag.Disputed)) return;
  c.flags |= Flag.Disputed;
  c.nextDisputed = 0;
  const index = indexOf(c) + 1;
  if (s.disputedTail) at(s.disputedTail - 1).nextDisputed = index;
  else s.disputedHead = index;
  s.disputedTail = index;
}

/** Takes the first disputed record off the queue; there must be one. */
export function dropDisputed(): void {
  const s = state();
  const c = at(s.disputedHead - 1);
  s.disputedHead = c.nextDisputed;
  if (!s.disputedHead) s.disputedTail = 0;
  c.nextDisputed = 0;
  c.flags &= ~(<u32> Flag.Disputed);
}
