/**
 * server.ts - the server behind every path that is measured
 *
 * Theory of operation
 * One program serves all kinds of wire.ts at one address. All but the idle ones each have a
 * thread that serves one connection after the other; idle connections, of which there may be
 * thousands, share the main thread's event loop. What it says depends on what it was told alone, so
 * a hot standby can run a copy.
 *
 * Run it: deno run -A bench/server.ts ADDRESS
 */

import type { ThreadTask } from "./server_thread.ts";
import { EXCHANGE_OCTETS, PORTS } from "./wire.ts";

const KINDS: ThreadTask["kind"][] = ["source", "sink", "echo", "answer", "pace"];

async function serveIdle(address: string): Promise<void> {
  const listener = Deno.listen({ hostname: address, port: PORTS.idle });
  for await (const connection of listener) {
    echoSlowly(connection)
      .catch((error) => console.error(`idle: ${error}`))
      .finally(() => connection.close());
  }
}

async function echoSlowly(connection: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(EXCHANGE_OCTETS);
  for (;;) {
    const length = await connection.read(buffer);
    if (length === null) return;
    for (let at = 0; at < length;) at += await connection.write(buffer.subarray(at, length));
  }
}

function startThread(task: ThreadTask): void {
  const url = new URL("./server_thread.ts", import.meta.url);
  new Worker(url, { type: "module" }).postMessage(task);
}

if (import.meta.main) {
  const [address] = Deno.args;
  for (const kind of KINDS) startThread({ kind, address });
  await serveIdle(address);
}
