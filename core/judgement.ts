/**
 * judgement.ts - what the core has seen of a server's failure, for the caller to judge
 *
 * The core sees single connections; what follows for the service is the caller's policy. Each finding
 * goes into a ring that the caller empties in every pass. When it is full the newest are only counted:
 * one finding of a kind is enough to act on.
 *
 *   finding      | kind u32 | record u32 | ports u32 | ours u32 | theirs u32 | waited ms u32 |
 *
 * `ours` and `theirs` are offsets in the server's stream, from its first octet (or where it was cut last,
 * segment/cutting.ts), or for reading in the client's: how far our server and the other replica's have come.
 */
import { state } from "./state";
import { Connection, indexOf } from "./flow/connection";

/** What was found. Shown to people, so the order is part of the interface. */
export const enum Finding {
  None = 0,
  /** Our server ended a connection with FIN or RST, the other replica's went on. */
  OursEnded,
  /** The other way round; the connection is unprotected already. */
  TheirsEnded,
  /** Our kernel refused a connection that the other replica's server accepts. */
  OursRefuses,
  /** The standby found that its server's output is not ours: ours up to where, theirs the same up to. */
  Diverged,
  /** The same found after a takeover, ours being the new primary's: the client was reset. */
  DivergedReset,
  /** Our server writes nothing more, or too little, where the other one has. */
  OursStopsWriting,
  /** Our server reads nothing more, or too little, where the other one does. */
  OursStopsReading,
  /** The standby's server, likewise; the connection is unprotected already. */
  TheirsStopsWriting,
  TheirsStopsReading,
  /** As Diverged, where the standby keeps whole logs: it goes on with the log alone. */
  DivergedFromLog,
}

/** Findings the ring holds. */
const CAPACITY: u32 = 64;
/** Octets of a finding. */
export const FINDING_SIZE: u32 = 24;
const RING: usize = memory.data(1536, 8);

let count: u32 = 0;

/** Notes a finding about a connection, at `since` of State.now. */
export function noteFinding(
  kind: Finding,
  c: Connection,
  ours: u32,
  theirs: u32,
  since: u32,
): void {
  if (count == CAPACITY) return;
  const to = RING + <usize> count * FINDING_SIZE;
  store<u32>(to, kind);
  store<u32>(to, indexOf(c), 4);
  store<u32>(to, c.ports, 8);
  const input = kind == Finding.OursStopsReading || kind == Finding.TheirsStopsReading;
  const first = (input ? c.irs : c.iss) + 1;
  store<u32>(to, ours - first, 12);
  store<u32>(to, theirs - first, 16);
  store<u32>(to, state().now - since, 20);
  count++;
}

/** Where the findings lie. */
export function findingsAt(): usize {
  return RING;
}

/** How many there are; they are gone from the ring when the next one is noted. */
export function takeFindings(): u32 {
  const taken = count;
  count = 0;
  return taken;
}
