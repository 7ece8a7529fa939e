/**
 * churner.ts - a client that opens many short connections, some at a time
 *
 * Each connection asks the mixed server for a few octets, verifies them and closes, in turn from
 * either side: the client ends first, or it leaves and lets its kernel say FIN. Ports of the client
 * in TIME-WAIT are not waited for: the namespace must let them be used again (tcp_tw_reuse).
 *
 * Usage: deno run -A test/net/churner.ts ADDRESS PORT COUNT
 */

import { Dialogue } from "./dialogue.ts";
import { findMismatch } from "./pattern.ts";

const AT_A_TIME = 16;
const OCTETS = 1000;

const [address, port, count] = Deno.args;
let next = 0;

async function connectInTurn(): Promise<void> {
  for (let number = next++; number < Number(count); number = next++) {
    const dialogue = await Dialogue.connect(`short connection ${number}`, {
      address,
      port: Number(port),
    });
    try {
      await dialogue.write(new TextEncoder().encode(`get ${number} ${OCTETS}\n`));
      await dialogue.readExactly(OCTETS, (octets, offset) => {
        if (findMismatch(octets, number, offset) < 0) return;
        throw dialogue.failure("verify the answer", "it differs");
      });
      if (number % 2 === 0) {
        await dialogue.closeWrite();
        await dialogue.expectEnd();
      }
    } finally {
      dialogue.close();
    }
  }
}

await Promise.all(Array.from({ length: AT_A_TIME }, connectInTurn));
