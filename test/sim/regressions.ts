/**
 * regressions.ts - seeds whose schedules once found something; each runs in every test run
 *
 * A schedule follows from its seed and from the code of this directory: when that changes, an old
 * seed plays another schedule. So a bug in core or runtime gets a test of its own as well.
 */

/** A seed, and what it had found. */
export interface Regression {
  /** For `runSchedule()`. */
  seed: number;
  /** Hosts keep whole logs (`Kind` of world.ts). */
  mixed?: boolean;
  /** What was wrong, and where. */
  found: string;
}

/** All of them, oldest first. */
export const REGRESSIONS: readonly Regression[] = [
  {
    seed: 6,
    found:
      "core/segment/feeder.ts: with commit = ack, a record whose last ACK was our own never closed",
  },
  {
    seed: 26,
    found:
      "runtime/loop.ts: a host stopped before its takeover announced the address without a voice",
  },
  {
    seed: 67,
    found:
      "runtime/loop.ts: a standby kept its channel to a host that had lost its power, for good",
  },
  {
    seed: 3040184285,
    found:
      "here: a connection that the handing-over server had ended alone was expected to be kept by it",
  },
  {
    seed: 2539908446,
    found: "here: a client of a voice whose epoch had passed was expected to be known to the next",
  },
  {
    seed: 1372686293,
    found:
      "core/segment/apply.ts: an end that was agreed on late stayed one of a dead server's, and " +
      "its connection unprotected and its record for ever after a switch",
  },
  {
    seed: 3791084545,
    found:
      "core/segment/ending.ts: our server's end was judged while the standby's word of its own was late",
  },
  {
    seed: 1672443554,
    found: "runtime/protocol/register.ts: a void value hid a term that the claimant had no part in",
  },
  {
    seed: 2777474309,
    found:
      "core/segment/feeder.ts: proven octets that were lost after a takeover were repeated by nobody",
  },
  {
    seed: 1852539778,
    found: "here: a RST in LAST-ACK, after LINGER_MS, was taken for an early end",
  },
  {
    seed: 1290908297,
    found: "here: a RST from a voice whose epoch had passed excused nobody",
  },
  {
    seed: 1017465751,
    found:
      "runtime/protocol/replica.ts: a primary on a hold, heard by nobody, never looked into the register",
  },
  {
    seed: 558456388,
    found:
      "core/segment/telling.ts: the second false alarm of a storm took what no later standby was told of",
  },
  {
    seed: 484345680,
    found: "here: a SYN that came after its connection was over was to be forgotten at once",
  },
  {
    seed: 2766455025,
    mixed: true,
    found:
      "core/segment/feeder.ts: with commit = ack, a FIN that the old primary's server had answered, " +
      "unheard by the standby, waited for that answer, for good",
  },
  {
    seed: 4036220847,
    mixed: true,
    found:
      "test/unit/endpoint.ts: an ACK bore the number of what was being repeated, which a core does not " +
      "believe, and a server did: it never repeated its FIN, so the connection never ended",
  },
  { seed: 2460690182, mixed: true, found: "test/unit/endpoint.ts: the same" },
];
