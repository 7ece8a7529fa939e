/**
 * verdict.ts - what a client's capture must show when nobody noticed the fault
 *
 * Theory of operation
 * The promises of the design as assertions on a TcpTrace taken at the client:
 *
 *   P1  no octet of the server's stream is missing, no initial sequence number but one
 *   P2  SEG.ACK and the scaled right window edge of the server never go back (RFC 9293 3.8.6)
 *   P4  no RST, from either side: a client sends one only when it was told nonsense
 *       TSval never goes back and is never left out (RFC 7323 5.2: PAWS would drop the segment)
 *       one SYN per connection; a client whose SYN was lost in the fault, before it had a SYN-ACK,
 *       may repeat that very SYN
 *
 * Seconds of silence fill queues with repetitions; those of a connection that has just ended are
 * answered by the client's kernel with a RST, as without us: after long silence a client that has sent
 * its FIN may send RST.
 *
 * On a link that reorders or repeats, numbers go back at the client without anybody's fault, so
 * those checks are left out there; and a kernel whose connection is over answers a late copy of the
 * client's last segments with a RST, which ends nothing.
 */

import assert from "node:assert/strict";
import type { Anomaly, ConnectionTrace, TcpTrace } from "./capture.ts";

/** Connections quoted in one failure. */
const QUOTED_MAX = 5;

/** What is known about the captured run. */
export interface VerdictOptions {
  /** How many connections there must be; without it, at least one. */
  connections?: number;
  /** Wall clock of the fault, milliseconds since 1970; without it there was none. */
  faultMs?: number;
  /** The link reorders or repeats segments. */
  isDisorderly?: boolean;
  /** Nobody spoke for a second or more. */
  hasLongSilence?: boolean;
  /** The right edge may go back: a daemon that reads its log from disk lacks its last words. */
  mayShrink?: boolean;
  /** Frames that the capture lost, as `Capture.stop()` says. */
  dropped: number;
}

/**
 * Asserts that every connection of a trace went on as if nothing had happened.
 *
 * @param trace The trace of a capture at the client.
 * @param options What is known about the run.
 * @throws {AssertionError} Listing connections and what is wrong with each.
 */
export function assertUnbroken(trace: TcpTrace, options: VerdictOptions): void {
  assert.equal(options.dropped, 0, "the capture is incomplete: tcpdump was too slow");
  const found = trace.connections.length;
  const names = trace.connections.slice(0, QUOTED_MAX).map(({ name }) => name).join(", ");
  const expected = options.connections ?? Math.max(1, found);
  assert.equal(found, expected, `the capture holds other connections than expected: ${names}`);
  const broken = trace.connections.flatMap((connection) => {
    const faults = faultsOf(connection, options);
    return faults.length === 0 ? [] : [`${connection.name}: ${faults.join("; ")}`];
  });
  if (broken.length === 0) return;
  const more = broken.length > QUOTED_MAX ? `\nand ${broken.length - QUOTED_MAX} more` : "";
  assert.fail(
    `${broken.length} of ${found} connections show the fault:\n` +
      broken.slice(0, QUOTED_MAX).join("\n") + more,
  );
}

/** Everything that is wrong with one connection. */
function faultsOf(connection: ConnectionTrace, options: VerdictOptions): string[] {
  const faults: string[] = [];
  const expect = (holds: boolean, fault: string) => holds || faults.push(fault);
  const { faultMs, isDisorderly = false } = options;
  const { serverRsts, serverRstsAfterEnd, serverRstMs, clientFins, serverFins } = connection;
  const allowedRsts = isDisorderly ? serverRstsAfterEnd : 0;
  expect(
    serverRsts === allowedRsts,
    `${serverRsts} RST from the server (${clientFins} FIN from the client, ${serverFins} from the ` +
      `server), first ${describeTime(serverRstMs, options)}`,
  );
  const mayReset = options.hasLongSilence === true && clientFins > 0;
  const { clientRsts, clientRstsAfterEnd } = connection;
  expect(clientRsts === clientRstsAfterEnd || mayReset, `${clientRsts} RST from the client`);
  expect(
    connection.clientIsns === 1,
    `${connection.clientIsns} initial sequence numbers of client`,
  );
  expect(
    connection.serverIsns === 1,
    `${connection.serverIsns} initial sequence numbers of server`,
  );
  const mayRepeatSyn = isDisorderly || (faultMs !== undefined && !(connection.synAckMs < faultMs));
  expect(connection.clientSyns === 1 || mayRepeatSyn, `${connection.clientSyns} SYN`);
  expect(connection.octetsMissing === 0, `${connection.octetsMissing} octets never came`);
  expect(connection.timestampsMissing === 0, `${connection.timestampsMissing} without timestamps`);
  if (isDisorderly) return faults;
  expect(connection.clientSynsAfterSynAck === 0, "a SYN after the SYN-ACK");
  for (
    const [what, anomalies] of [
      ["ACK", connection.ackRegressions],
      ["right edge", options.mayShrink ? [] : connection.rightEdgeRegressions],
      ["TSval", connection.tsvalRegressions],
    ] as [string, Anomaly[]][]
  ) {
    if (anomalies.length > 0) faults.push(describe(what, anomalies, options));
  }
  return faults;
}

function describe(what: string, anomalies: Anomaly[], options: VerdictOptions): string {
  const [{ timeMs, before, after }] = anomalies;
  return `${what} went back ${anomalies.length} times, first from ${before} to ${after} ` +
    `(${(before - after) >>> 0}) ${describeTime(timeMs, options)}`;
}

function describeTime(timeMs: number, { faultMs }: VerdictOptions): string {
  if (Number.isNaN(timeMs)) return "never";
  const since = faultMs === undefined
    ? ""
    : `, ${(timeMs - faultMs).toFixed(1)} ms after the fault`;
  return `at ${new Date(timeMs).toISOString()}${since}`;
}
