/**
 * rfc5961_test.ts - forged RST, SYN and data neither end nor disturb a connection
 *
 *   client (a live connection, and a raw socket that forges) ---- switch ---- a, b
 *
 * Claim: segments with the client's address and ports, but numbers that an attacker would have to
 * guess, do nothing lasting to a protected connection, before a crash of the primary and after it:
 *
 *   RST out of the window, RST in the window but not at RCV.NXT    RFC 5961 section 3.2
 *   SYN in and out of the window                                   RFC 5961 section 4.2
 *   data and FIN out of the window, ACK of what was never sent     RFC 5961 section 5.2
 *   data in order with a timestamp of long ago                     RFC 7323 section 5.3 (PAWS)
 *
 * The connection's true numbers come from the capture; an idle connection's do not move.
 */

import assert from "node:assert/strict";
import { parseSegment, readFrames, traceTcp } from "./capture.ts";
import { netTest, sleep } from "./conditions.ts";
import { mixedServer, type Site, withSite } from "./harness.ts";
import type { ForgedSegment } from "./inject.ts";

const FIN = 0x01;
const SYN = 0x02;
const RST = 0x04;
const ACK = 0x10;
const HALF_SPACE = 2 ** 31;

/** A segment to forge: what is added to the true numbers. */
interface Forgery {
  name: string;
  flags: number;
  seqBy: number;
  ackBy: number;
  /** Added to the client's last TSval; without it the segment has no timestamps. */
  timestampBy?: number;
  payload?: string;
}

const FORGERIES: Forgery[] = [
  { name: "RST in the window", flags: RST, seqBy: 1000, ackBy: 0 },
  { name: "RST|ACK in the window", flags: RST | ACK, seqBy: 1, ackBy: 0 },
  { name: "RST behind the window", flags: RST, seqBy: -1, ackBy: 0 },
  { name: "RST far outside", flags: RST, seqBy: HALF_SPACE, ackBy: 0 },
  { name: "SYN at RCV.NXT", flags: SYN, seqBy: 0, ackBy: 0 },
  { name: "SYN in the window", flags: SYN, seqBy: 1000, ackBy: 0 },
  { name: "SYN far outside", flags: SYN, seqBy: HALF_SPACE, ackBy: 0 },
  { name: "SYN|ACK", flags: SYN | ACK, seqBy: 0, ackBy: 0 },
  { name: "data far outside", flags: ACK, seqBy: HALF_SPACE, ackBy: 0, payload: "forged" },
  { name: "FIN far outside", flags: FIN | ACK, seqBy: HALF_SPACE, ackBy: 0 },
  {
    name: "data with an ACK of the future",
    flags: ACK,
    seqBy: 0,
    ackBy: 9999,
    payload: "forged",
  },
  {
    name: "data with an ACK of long ago",
    flags: ACK,
    seqBy: 0,
    ackBy: -HALF_SPACE + 1,
    payload: "forged",
  },
  {
    name: "data with a timestamp of long ago",
    flags: ACK,
    seqBy: 0,
    ackBy: 0,
    timestampBy: -1_000_000,
    payload: "forged",
  },
];

for (const family of [4, 6] as const) {
  netTest(`forged segments do not disturb a connection (IPv${family})`, [], async (context) => {
    await withSite(context, { family, run: mixedServer() }, async (site) => {
      await site.waitProtected();
      const capture = await site.startCapture();
      const connection = await site.startHeldConnection();
      await connection.exchange();
      await forgeAll(site, capture.path);
      await connection.exchange();
      await site.crash(await site.primary());
      await connection.exchange();
      await forgeAll(site, capture.path);
      await connection.exchange();
      await connection.close();
      assert.equal(await capture.stop(), 0);
      const [trace] = traceTcp(capture.path, site.address).connections;
      assert.equal(trace.serverRsts, 0, "RST from the server");
      assert.equal(trace.octetsMissing, 0);
      assert.deepEqual(trace.rightEdgeRegressions, []);
    });
  });
}

/** Forges every segment of the list for the one connection in the capture. */
async function forgeAll(site: Site, capturePath: string): Promise<void> {
  await sleep(300); // until the last acknowledgement is in the capture
  const truth = lastNumbers(capturePath, site.address);
  await site.injectFromClient(FORGERIES.map((forgery) => {
    const { seqBy, ackBy, timestampBy, flags, payload } = forgery;
    const timestamps = timestampBy === undefined || truth.timestamps === undefined
      ? undefined
      : { ...truth.timestamps, value: (truth.timestamps.value + timestampBy) >>> 0 };
    const seq = (truth.seq + seqBy) >>> 0;
    const ack = (truth.ack + ackBy) >>> 0;
    return { ...truth, seq, ack, flags, payload, timestamps };
  }));
  await sleep(300);
}

/** The next numbers of the client's side, from the last genuine segments of both sides. */
function lastNumbers(capturePath: string, serverAddress: string): ForgedSegment {
  let last: ForgedSegment | undefined;
  for (const frame of readFrames(capturePath)) {
    const segment = parseSegment(frame);
    if (segment === undefined || segment.source !== serverAddress) continue;
    const { timestamps } = segment.options;
    last = {
      source: segment.destination,
      sourcePort: segment.destinationPort,
      destination: segment.source,
      destinationPort: segment.sourcePort,
      seq: segment.ack, // RCV.NXT of the server
      ack: (segment.seq + segment.payloadLength) >>> 0,
      flags: 0,
      timestamps: timestamps && { value: timestamps.echo, echo: timestamps.value },
    };
  }
  if (last === undefined) throw new Error(`No segment from ${serverAddress} in ${capturePath}`);
  return last;
}
