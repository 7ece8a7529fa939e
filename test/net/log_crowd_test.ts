/**
 * log_crowd_test.ts - log mode: more connections are played to a new server than it has accepted
 *
 *   200 connections ---- switch ---- host a: daemon, server with a backlog of 4 (SIGKILL, restart); no peer
 *
 * The next server listens, and accepts nobody for a second. Its kernel answers most of the SYNs that it is
 * played with cookies, and drops what follows them, while clients say one octet after the other.
 *
 * Claim
 *   each client gets back all the octets it has said, no RST, one SYN
 */

import { traceTcp } from "./capture.ts";
import { netTest, repetitions } from "./conditions.ts";
import { type SiteOptions, withSite } from "./harness.ts";
import { assertUnbroken } from "./verdict.ts";

const CONNECTIONS = 200;
const BACKLOG = 4;
/** For how long each server listens before it accepts, seconds; the first one while nobody is there. */
const BUSY_S = 1;
/** Octets of each connection after the server's death, one every PAUSE_S. */
const OCTETS = 30;
const PAUSE_S = 0.05;

const SERVER = `
import selectors, socket, time
listener = socket.create_server(("0.0.0.0", 80), backlog=${BACKLOG})
time.sleep(${BUSY_S})
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            selector.register(listener.accept()[0], selectors.EVENT_READ)
            continue
        octets = key.fileobj.recv(4096)
        if octets:
            key.fileobj.sendall(octets)
        else:
            selector.unregister(key.fileobj)
            key.fileobj.close()
`;

const CLIENT = `
import socket, sys, time
connections = []
for number in range(${CONNECTIONS}):
    connection = socket.create_connection((sys.argv[1], 80), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(bytes([number]))
    assert connection.recv(1) == bytes([number]), number
    connections.append(connection)
print("connected", flush=True)
sys.stdin.readline()
for place in range(${OCTETS}):
    for number, connection in enumerate(connections):
        connection.sendall(bytes([(number + place) % 256]))
    time.sleep(${PAUSE_S})
for number, connection in enumerate(connections):
    connection.shutdown(socket.SHUT_WR)
    said = bytes((number + place) % 256 for place in range(${OCTETS}))
    got = b""
    while octets := connection.recv(4096):
        got += octets
    assert got == said, (number, got, said)
`;

netTest("clients do not notice that a new server has no room for them yet", ["python3"], async (
  context,
) => {
  const command = ["python3", "-u", "-c", SERVER];
  const options: SiteOptions = {
    alone: true,
    hosts: ["a"],
    service: { mode: "log" },
    run: { a: command, b: command },
  };
  await withSite(context, options, async (site) => {
    await site.waitPrimary("a");
    const rounds = repetitions(10, 0.2);
    for (let round = 0; round < rounds; round++) {
      const capture = await site.startCapture();
      const client = site.startInClient("python3", ["-c", CLIENT, site.address], { input: true });
      await client.waitForOutput("connected", 30_000);
      const faultMs = await site.signalServer("a", "SIGKILL");
      await client.write("go\n");
      await client.mustSucceed(60_000);
      const dropped = await capture.stop();
      const trace = traceTcp(capture.path, site.address);
      assertUnbroken(trace, { connections: CONNECTIONS, faultMs, dropped });
      await Deno.remove(capture.path);
    }
  });
});
