/**
 * peer_control_test.ts - control connections over loopback: who may agree on keys, and who may not
 */
import { deepStrictEqual, match, ok, rejects, strictEqual } from "node:assert/strict";
import net from "node:net";
import tls from "node:tls";
import { createAuthority, type Credentials, issueCertificate } from "../../runtime/certificates.ts";
import { loadIdentity, nodeOf } from "../../runtime/identity.ts";
import type { KeyCommand } from "../../runtime/loop/messages.ts";
import { createLogger } from "../../runtime/log.ts";
import { controlEndpoint, PeerControl } from "../../runtime/peer_control.ts";
import { Refusals } from "../../runtime/refusals.ts";

const authority = await createAuthority("Test", { days: 100 });
const stranger = await createAuthority("Test", { days: 100 });
const log = createLogger({ format: "text", level: "error" });
const directory = await Deno.makeTempDir({ prefix: "holdfast-test-" });
addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** Files of a node, with whatever certificate. */
async function filesOf(name: string, made: Credentials, ca = authority) {
  const files = {
    ca: `${directory}/${name}.ca`,
    cert: `${directory}/${name}.pem`,
    key: `${directory}/${name}.key`,
  };
  await Deno.writeTextFile(files.ca, ca.cert);
  await Deno.writeTextFile(files.cert, made.cert);
  await Deno.writeTextFile(files.key, made.key, { mode: 0o600 });
  return files;
}

const files = {
  a: await filesOf("a", await issueCertificate("a", authority, { days: 5 })),
  b: await filesOf("b", await issueCertificate("b", authority, { days: 5 })),
};

/** A port that is free now, and the one above it most likely too. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

interface Side {
  control: PeerControl;
  commands: KeyCommand[];
  refusals: Refusals;
}

/** One node's control, on loopback addresses of its own. */
function sideOf(node: "a" | "b", port: number, renewMs = 60_000): Side {
  const commands: KeyCommand[] = [];
  const refusals = new Refusals(() => {});
  const own = node === "a" ? "127.0.0.1" : "127.0.0.2";
  const other = node === "a" ? "127.0.0.2" : "127.0.0.1";
  const control = new PeerControl({
    node,
    peer: {
      name: node === "a" ? "b" : "a",
      links: [{ local: `${own}:${port}`, remote: `${other}:${port}` }],
    },
    files: files[node],
    renewMs,
    key: (command) => Promise.resolve(commands.push(command)),
    log,
    refusals,
  });
  return { control, commands, refusals };
}

async function until(condition: () => boolean, what: string): Promise<void> {
  const deadlineMs = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`Waited 10 s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Waits until sockets and timers of a stopped side are gone. */
const settle = { sanitizeOps: false, sanitizeResources: false };

Deno.test("PeerControl: two nodes agree on the same keys and renew them", settle, async () => {
  const port = freePort();
  const a = sideOf("a", port, 300);
  const b = sideOf("b", port, 300);
  try {
    await a.control.start();
    await b.control.start();
    const used = (side: Side) => side.commands.filter(({ step }) => step === "use");
    await until(() => used(a).length >= 3 && used(b).length >= 3, "two renewals");
    ok(a.control.isUp && b.control.isUp);
    const installed = (side: Side) =>
      side.commands.filter(({ step }) => step === "install").map(({ peer: _, ...key }) => key);
    deepStrictEqual([a, b].map(({ commands: [{ peer }] }) => peer), ["b", "a"]);
    deepStrictEqual(installed(a).slice(0, 3), installed(b).slice(0, 3));
    strictEqual(new Set(installed(a).map((command) => JSON.stringify(command))).size >= 3, true);
    deepStrictEqual(b.refusals.counts.control, 0);
  } finally {
    a.control.stop();
    b.control.stop();
  }
});

Deno.test(
  "PeerControl: a node that ends and comes back is called again",
  settle,
  async () => {
    const port = freePort();
    const a = sideOf("a", port);
    let b = sideOf("b", port);
    try {
      await a.control.start();
      await b.control.start();
      await until(() => a.control.isUp, "the first agreement");
      b.control.stop();
      await until(() => !a.control.isUp, "the end of the connection");
      b = sideOf("b", port);
      await b.control.start();
      await until(() => b.control.isUp, "another agreement");
    } finally {
      a.control.stop();
      b.control.stop();
    }
  },
);

const intruders: [string, Partial<tls.ConnectionOptions>, (() => Promise<Credentials>) | null][] = [
  ["no certificate", {}, null],
  ["a certificate of another authority", {}, () => issueCertificate("a", stranger, { days: 5 })],
  ["the certificate of a third node", {}, () => issueCertificate("c", authority, { days: 5 })],
  ["our own name", {}, () => issueCertificate("b", authority, { days: 5 })],
  ["a certificate that has ended", {}, () => issueCertificate("a", authority, { days: -0.01 })],
  [
    "TLS 1.2",
    { minVersion: "TLSv1.2", maxVersion: "TLSv1.2" },
    () => issueCertificate("a", authority, { days: 5 }),
  ],
];

for (const [what, options, make] of intruders) {
  Deno.test(`PeerControl refuses a caller with ${what}`, settle, async () => {
    const port = freePort();
    const b = sideOf("b", port);
    try {
      await b.control.start();
      const made = await make?.() ?? {};
      const socket = tls.connect({
        host: "127.0.0.2",
        port: port + 1,
        servername: "holdfast.internal",
        ca: authority.cert,
        ...made,
        ...options,
      });
      const closed = Promise.withResolvers<void>();
      socket.on("error", () => {});
      socket.on("close", () => closed.resolve());
      // A peer would propose now; a stranger's word must reach nobody.
      socket.on("secureConnect", () => socket.write(new Uint8Array(64)));
      socket.resume();
      await closed.promise;
      await until(() => b.refusals.counts.control === 1, "the refusal to be counted");
      deepStrictEqual(b.commands, []);
    } finally {
      b.control.stop();
    }
  });
}

Deno.test("PeerControl refuses octets that are no TLS", settle, async () => {
  const port = freePort();
  const b = sideOf("b", port);
  try {
    await b.control.start();
    const socket = net.connect({ host: "127.0.0.2", port: port + 1 });
    socket.on("error", () => {});
    socket.on("connect", () => socket.write("GET / HTTP/1.1\r\n\r\n"));
    socket.resume();
    await until(() => b.refusals.counts.control === 1, "the refusal to be counted");
    deepStrictEqual(b.commands, []);
  } finally {
    b.control.stop();
  }
});

Deno.test("PeerControl does not talk to a server that is not the peer", settle, async () => {
  for (
    const made of [
      await issueCertificate("c", authority, { days: 5 }),
      await issueCertificate("b", stranger, { days: 5 }),
    ]
  ) {
    const port = freePort();
    const heard: number[] = [];
    const impostor = tls.createServer(
      { ...made, ca: authority.cert, minVersion: "TLSv1.3", requestCert: true },
      (socket) => {
        socket.on("data", (octets) => heard.push(octets.length));
        socket.on("error", () => {});
      },
    );
    const { address } = controlEndpoint(`127.0.0.2:${port}`);
    impostor.listen(port + 1, address.text);
    const a = sideOf("a", port);
    try {
      await a.control.start();
      await until(() => a.refusals.counts.control >= 2, "two refusals");
      deepStrictEqual([heard, a.commands], [[], []]);
    } finally {
      a.control.stop();
      impostor.close();
    }
  }
});

Deno.test("loadIdentity() names the file that cannot be used, and why", async () => {
  const good = await issueCertificate("a", authority, { days: 50 });
  deepStrictEqual((await loadIdentity("a", await filesOf("good", good))).warnings, []);
  const cases: [RegExp, Credentials, Credentials?][] = [
    [/is for node "c", this node is "a"/, await issueCertificate("c", authority, { days: 5 })],
    [/no authority in .* has signed it/, await issueCertificate("a", stranger, { days: 5 })],
    [/it ended at /, await issueCertificate("a", authority, { days: -0.01 })],
    [/is not the key of/, { cert: good.cert, key: authority.key }],
    [/holds no private key/, { cert: good.cert, key: "none" }],
    [/holds no certificate in PEM/, { cert: "none", key: good.key }],
    [/is for no node of a cluster/, { cert: authority.cert, key: authority.key }],
  ];
  for (const [pattern, made, ca] of cases) {
    await rejects(loadIdentity("a", await filesOf("bad", made, ca)), pattern);
  }
  await rejects(
    loadIdentity("a", { ca: "/none", cert: "/none", key: "/none" }),
    /Cannot read .* \/none: there is no such file/,
  );
  const soon = await filesOf("soon", await issueCertificate("a", authority, { days: 3 }));
  await Deno.chmod(soon.key, 0o640);
  const { warnings } = await loadIdentity("a", soon);
  match(warnings[0], /ends in 2 days/);
  match(warnings[1], /has mode 640, others may read it/);
});

Deno.test("nodeOf() takes the one form that we make", () => {
  strictEqual(nodeOf("DNS:holdfast.internal, URI:urn:holdfast:node:a"), "a");
  for (
    const other of [
      undefined,
      "",
      "DNS:a",
      "URI:urn:holdfast:node:a",
      "DNS:holdfast.internal, URI:urn:holdfast:node:a, DNS:b",
      'DNS:holdfast.internal, URI:"urn:holdfast:node:a"',
      "DNS:holdfast.internal, URI:urn:holdfast:node:",
    ]
  ) strictEqual(nodeOf(other), null, other);
});
