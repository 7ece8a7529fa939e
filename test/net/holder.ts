/**
 * holder.ts - a client that holds one connection to the mixed server and uses it when told
 *
 * It connects, prints "holder connected" and reads standard input: for each line "exchange" it sends
 * octets and gets their hash, asks for octets and verifies them, and prints "exchanged N". When the
 * input ends it ends the connection in good order. It ends with status 1 when the connection cannot
 * be made or breaks.
 *
 * Usage: deno run -A test/net/holder.ts ADDRESS PORT TIMEOUT_MS
 */

import { createHash } from "node:crypto";
import { Dialogue } from "./dialogue.ts";
import { findMismatch, patternAt } from "./pattern.ts";

const OCTETS = 30_000;

const [address, port, timeoutMs] = Deno.args;
const dialogue = await Dialogue.connect("held connection", {
  address,
  port: Number(port),
  timeoutMs: Number(timeoutMs),
});
console.log("holder connected");
let count = 0;
const decoder = new TextDecoder();
for await (const octets of Deno.stdin.readable) {
  for (const word of decoder.decode(octets).trim().split("\n")) {
    if (word !== "exchange") throw new Error(`Cannot do '${word}', allowed is exchange`);
    await exchange(++count);
    console.log(`exchanged ${count}`);
  }
}
await dialogue.closeWrite();
await dialogue.expectEnd();
dialogue.close();

async function exchange(name: number): Promise<void> {
  const sent = patternAt(name, 0, OCTETS);
  await dialogue.write(new TextEncoder().encode(`put ${OCTETS}\n`));
  await dialogue.write(sent);
  const hash = await dialogue.readLine();
  const expected = createHash("sha256").update(sent).digest("hex");
  if (hash !== expected) throw dialogue.failure(`see the hash ${expected}`, `it is '${hash}'`);
  await dialogue.write(new TextEncoder().encode(`get ${name} ${OCTETS}\n`));
  await dialogue.readExactly(OCTETS, (octets, offset) => {
    if (findMismatch(octets, name, offset) < 0) return;
    throw dialogue.failure("verify the answer", "it differs");
  });
}
