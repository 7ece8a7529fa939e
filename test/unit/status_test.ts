/**
 * status_test.ts - what a node says, as text for people
 *
 * Columns are compared where programs or people look for them; widths are free.
 */
import { ok, strictEqual } from "node:assert/strict";
import {
  type ConnectionInfo,
  formatMs,
  formatOctets,
  type NodeStatus,
  renderConnections,
  renderStatus,
  renderSwitch,
} from "../../runtime/status.ts";

const STATUS: NodeStatus = {
  node: "a",
  version: "0.1.0",
  services: [{
    name: "web",
    address: "10.0.0.100",
    ports: [80, 443],
    mode: "hot",
    role: "primary",
    epoch: 3,
    protected: true,
    app: { state: "running", pid: 4711, restarts: 1, lastExit: "SIGSEGV" },
    connections: { total: 10, hot: 9, log: 0, unprotected: 1 },
    lastTakeover: {
      reason: "peer-silent",
      detectMs: 31.24,
      takeoverMs: 3.1,
      connections: 10,
      at: "2026-11-22T04:17:13.963Z",
      timeline: {
        lastHeartbeatMs: 1_795_321_033_931.5,
        suspectMs: 1_795_321_033_963.25,
        adoptedMs: 1_795_321_033_964,
        claimedMs: 1_795_321_033_965.5,
        firstByteMs: 1_795_321_033_966.25,
      },
    },
    counters: { opened: 12 },
    arbitration: {
      asking: "hold",
      reachable: false,
      last: {
        purpose: "hold",
        outcome: "unreachable",
        epoch: 4,
        atMs: 1_795_321_033_963.25,
        tookMs: 350,
        detail: "no answer",
      },
    },
    speaks: false,
    judgements: [{
      at: "2026-11-22T04:17:13.963Z",
      judgement: "standby silent",
      evidence: { silentMs: 31.2, echoedMsAgo: 27.6 },
    }],
    warnings: ["no uplink"],
    recovery: null,
    store: null,
    copies: { wanted: 1, held: 1, chain: ["b"] },
  }],
  arbiter: { kind: "witness", where: "10.0.0.9:7950", reachable: false },
  peers: [{
    name: "b",
    links: [
      { local: "10.0.0.1:7946", remote: "10.0.0.2:7946", up: true, rttUs: 120.4 },
      { local: "10.0.1.1:7946", remote: "10.0.1.2:7946", up: false, rttUs: null },
    ],
    control: "down",
    refused: { datagram: 2, connection: 1, frame: 0, control: 0 },
  }],
};

const CONNECTION: ConnectionInfo = {
  service: "web",
  client: "10.0.0.2:51234",
  port: 80,
  state: "established",
  protection: "hot",
  reason: null,
  note: null,
  bytesIn: 117,
  bytesOut: 1_572_864,
  ageMs: 61_000,
  idleMs: 3.14,
};

Deno.test("renderStatus() shows services, notes and links", () => {
  strictEqual(
    renderStatus(STATUS),
    `node a, version 0.1.0

SERVICE  ADDRESS     PORTS   ROLE     EPOCH  PROTECTED  SERVER          CONNECTIONS
web      10.0.0.100  80,443  primary  3      yes        running (4711)  10 (9 hot, 1 unprotected)

web: warning: no uplink
web: server last ended with SIGSEGV, 1 restart
web: took over 10 connections at 2026-11-22T04:17:13.963Z (peer-silent), detected in 31.2 ms, took 3.1 ms
web: decided +31.8 ms, adopted +32.5 ms, claimed +34 ms, first octets sent +34.8 ms after the last heartbeat
b: no control connection: keys are not renewed, all else goes on
b: refused what was not its own: 2 datagrams, 1 connection

PEER  LINK                            STATE  ROUND TRIP
b     10.0.0.1:7946 -> 10.0.0.2:7946  up     120 us
b     10.0.1.1:7946 -> 10.0.1.2:7946  down   -

arbiter witness at 10.0.0.9:7950: NOT REACHABLE
web: silent until the standby is heard or the arbiter answers
web: asking for hold
web: hold unreachable (no answer) in 350 ms

JUDGED                    SERVICE  WHAT            EVIDENCE
2026-11-22T04:17:13.963Z  web      standby silent  silentMs=31.2 echoedMsAgo=27.6
`,
  );
});

Deno.test("renderStatus() says when there is nobody to take over", () => {
  const text = renderStatus({ ...STATUS, services: [], peers: [], arbiter: null });
  strictEqual(
    text,
    "node a, version 0.1.0\n\nno services\n\nno peers: nobody could take over\n\n" +
      "no arbiter: hosts that lose each other both go on\n",
  );
});

Deno.test("renderStatus() says what a log on disk holds", () => {
  const text = (epoch: number | null) => {
    const store = { state: "storing", segments: 2, waitingOctets: 0, epoch } as const;
    return renderStatus({ ...STATUS, services: [{ ...STATUS.services[0], store }] });
  };
  ok(text(3).includes("\nweb: log on disk holds all connections of epoch 3\n"));
  ok(text(null).includes("\nweb: log on disk lacks connections that live\n"));
});

Deno.test("renderConnections() gives each connection its verdict", () => {
  const lost = { ...CONNECTION, protection: "unprotected" as const, reason: "TCP MD5" };
  strictEqual(
    renderConnections([CONNECTION, lost]),
    `SERVICE  CLIENT          PORT  STATE        PROTECTION   IN     OUT      AGE        IDLE    REASON
web      10.0.0.2:51234  80    established  hot          117 B  1.5 MiB  1 min 1 s  3.1 ms
web      10.0.0.2:51234  80    established  unprotected  117 B  1.5 MiB  1 min 1 s  3.1 ms  TCP MD5

2 (1 hot, 1 unprotected)
`,
  );
  strictEqual(renderConnections([]), "no connections\n");
});

Deno.test("renderConnections() does not pass a terminal's commands on", () => {
  const text = renderConnections([{ ...CONNECTION, reason: "\x1b[2Jgone" }]);
  ok(text.includes("?[2Jgone"));
  ok(!text.includes("\x1b"));
});

Deno.test("renderSwitch() says who speaks now and how long nobody did", () => {
  const result = { service: "web", from: "a", to: "b", epoch: 4, connections: 1, gapMs: 3.06 };
  strictEqual(
    renderSwitch(result),
    "web: a -> b, epoch 4, 1 connection moved, nobody spoke for 3.1 ms\n",
  );
});

Deno.test("formatMs() and formatOctets() keep to what people need", () => {
  const spans: [number, string][] = [
    [0, "0 ms"],
    [3.14, "3.1 ms"],
    [999, "999 ms"],
    [1500, "1.5 s"],
    [61_000, "1 min 1 s"],
    [3_660_000, "1 h 1 min"],
    [90_000_000, "25 h 0 min"],
  ];
  for (const [ms, text] of spans) strictEqual(formatMs(ms), text);
  const sizes: [number, string][] = [
    [0, "0 B"],
    [1023, "1023 B"],
    [1536, "1.5 KiB"],
    [2 ** 30, "1.0 GiB"],
    [2 ** 51, "2048.0 TiB"],
  ];
  for (const [octets, text] of sizes) strictEqual(formatOctets(octets), text);
});
