/**
 * http_message_test.ts - where HTTP/1.1 messages end, beside the plain twin
 *
 * Messages are random, many of them such that two programs may read them in two ways, and some have an octet that
 * is another; cuts are random; the seed is printed.
 */
import { ok, strictEqual } from "node:assert/strict";
import type { Random } from "../net/random.ts";
import { Driver } from "./core_driver.ts";
import { type End, messageEnd, type Of, randomMessage } from "./http_twin.ts";
import { pick, rounds, seededTest } from "./seeded.ts";

/** `At` of core/stream/http_message.ts. */
const AT_DONE = 19;
const AT_LOST = 20;

const { core } = new Driver();

/** What the core finds, given the octets in random pieces. */
function coreEnd(octets: Uint8Array, of: Of, random: Random): End {
  const { wasm, bytes, view } = core;
  const message = wasm.body();
  bytes.fill(0, message, message + 32);
  if (of !== null) wasm.startResponse(message, of.isHead ? 1 : 0);
  const at = wasm.inbox();
  bytes.set(octets, at);
  for (let done = 0; done < octets.length;) {
    const most = pick(random, [1, 2, 7, 60, 2000]);
    const length = Math.min(octets.length - done, 1 + random.integer(most));
    const taken = wasm.takeMessage(message, at + done, length);
    done += taken;
    const state = view.getUint32(message + 12, true);
    if (state === AT_LOST) return "lost";
    if (state === AT_DONE) return done;
    strictEqual(taken, length, "octets were left");
  }
  return "more";
}

function octetsOf(text: string): Uint8Array {
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

function textOf(octets: Uint8Array): string {
  return new TextDecoder("latin1").decode(octets);
}

/** The end that both must find, if it can be told from what is there. */
function compare(octets: Uint8Array, of: Of, random: Random): End {
  const text = Array.from(octets, (octet) => String.fromCharCode(octet)).join("");
  const wanted = messageEnd(text, of);
  const found = coreEnd(octets, of, random);
  // The twin waits for a line's end before it looks at the line.
  const isEarly = wanted === "more" && found === "lost";
  if (!isEarly) strictEqual(found, wanted, JSON.stringify(textOf(octets)));
  return wanted;
}

const OF: Of[] = [null, { isHead: false }, { isHead: true }];

seededTest("the end of a message is the twin's, whatever the cuts", (random) => {
  const seen = { ends: 0, lost: 0 };
  for (let round = 0; round < rounds(3000); round++) {
    const of = pick(random, OF);
    const octets = octetsOf(
      randomMessage(random, of) + pick(random, ["", "GET / HTTP/1.1\r\n", "\0"]),
    );
    if (random.next() < 0.2) {
      octets[random.integer(octets.length)] = pick(random, [10, 13, 32, 58, 0]);
    }
    const end = compare(octets, of, random);
    if (typeof end === "number") seen.ends++;
    if (end === "lost") seen.lost++;
  }
  ok(seen.ends > 200 && seen.lost > 200, JSON.stringify(seen));
});

seededTest("of a message that ends, no beginning is taken for lost or for the whole", (random) => {
  for (let round = 0; round < rounds(100); round++) {
    const of = pick(random, OF);
    const octets = octetsOf(randomMessage(random, of));
    const end = messageEnd(textOf(octets), of);
    if (typeof end !== "number") continue;
    for (let length = 1; length < end; length += 1 + random.integer(5)) {
      strictEqual(coreEnd(octets.subarray(0, length), of, random), "more");
    }
    strictEqual(coreEnd(octets, of, random), end);
  }
});

Deno.test("a head of more than 64 KiB is lost, a body of any length is not", () => {
  const random = { next: () => 0.5, integer: (limit: number) => limit >> 1 } as Random;
  const head = (octets: number) => octetsOf(`GET /${"a".repeat(octets)} HTTP/1.1\r\n\r\n`);
  strictEqual(coreEnd(head(65_000), null, random), head(65_000).length);
  strictEqual(coreEnd(head(65_536), null, random), "lost");
  const body = `PUT / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n${"b".repeat(300_000)}`;
  strictEqual(coreEnd(octetsOf(body), null, random), body.length);
});
