/**
 * endpoint_test.ts - the tests' own TCP does what kernels do where a core is judged by it
 */
import { strictEqual } from "node:assert/strict";
import { CLIENT_V4, PORT, SERVICE_V4 } from "./core_driver.ts";
import { Endpoint } from "./endpoint.ts";
import { buildPacket, packetOf, parsePacket, TcpFlag } from "./twin.ts";

const CLIENT_PORT = 40_000;

/** A client and its server, which have shaken hands. */
function pair(): { client: Endpoint; server: Endpoint } {
  const habits = {
    scale: 7,
    window: 65535,
    stampOffset: null,
    sack: true,
    mss: 1000,
    slowStart: true,
    clock: () => 0,
  };
  const there = { local: CLIENT_V4, localPort: CLIENT_PORT };
  const here = { local: SERVICE_V4, localPort: PORT };
  const remote = ({ local, localPort }: typeof here) => ({ remote: local, remotePort: localPort });
  const client = new Endpoint({ ...habits, ...there, ...remote(here), iss: 1000 });
  const server = new Endpoint({ ...habits, ...here, ...remote(there), iss: 2000 });
  server.listen();
  client.connect();
  for (let i = 0; i < 2; i++) {
    for (const packet of client.take()) server.receive(packet);
    for (const packet of server.take()) client.receive(packet);
  }
  strictEqual(server.state, "open");
  return { client, server };
}

Deno.test("an ACK alone says the highest number that was sent, also while octets are repeated", () => {
  const { client, server } = pair();
  client.write(new Uint8Array(5000));
  client.end();
  client.take();
  client.timeout();
  strictEqual(client.take().length, 1);
  server.write(new Uint8Array(10));
  for (const packet of server.take()) client.receive(packet);
  const said = client.take().map((packet) => parsePacket(packet));
  strictEqual(said.length, 1);
  strictEqual(said[0].payload.length, 0);
  strictEqual(said[0].seq, 1000 + 1 + 5000 + 1);
});

Deno.test("what ends before the window is answered, and acknowledges nothing", () => {
  const { client, server } = pair();
  client.write(new Uint8Array(500));
  for (const packet of client.take()) server.receive(packet);
  server.write(new Uint8Array(10));
  server.take();
  const acknowledge = (seq: number) =>
    server.receive(buildPacket(packetOf({
      source: CLIENT_V4,
      destination: SERVICE_V4,
      sourcePort: CLIENT_PORT,
      destinationPort: PORT,
      seq,
      ack: 2000 + 1 + 10,
      flags: TcpFlag.ack,
      window: 512,
    })));
  acknowledge(1000 + 1 + 499);
  strictEqual(server.isDrained, false);
  strictEqual(server.take().length, 1);
  acknowledge(1000 + 1 + 500);
  strictEqual(server.isDrained, true);
});
