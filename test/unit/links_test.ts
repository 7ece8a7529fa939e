/**
 * links_test.ts - which link carries, and what is kept for the next one
 *
 * Claims: a link counts as behind exactly when another one of the same life is more than `detect` beats
 * ahead in either direction, and never by a silence of all; a connection is begun over a link that
 * carries, if there is one. What was not confirmed comes back whole, in order, and once, whatever was
 * added and confirmed before, and within the given size.
 */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { isBehind, linkFor, type LinkProgress } from "../../runtime/protocol/links.ts";
import { Retained } from "../../runtime/retained.ts";
import { randomOctets, rounds, seededTest } from "./seeded.ts";

function link(heardSeq: number, echoedSeq: number | null, life: number | null = 1): LinkProgress {
  return { life, heardSeq, echoedSeq };
}

Deno.test("a link is behind by what it has not brought, or not brought back", () => {
  const good = link(10, 20);
  for (
    const [other, behind] of [
      [link(10, 20), false],
      [link(7, 20), false],
      [link(6, 20), true],
      [link(10, 17), false],
      [link(10, 16), true],
      [link(10, null), true],
      [link(0, null, null), true],
      [link(0, 0, 2), false],
      [link(14, 20), false],
    ] as const
  ) {
    strictEqual(isBehind(other, [good, other], 3), behind, JSON.stringify(other));
  }
  const unanswered = link(10, null);
  strictEqual(
    isBehind(link(10, 5), [unanswered], 3),
    false,
    "nothing of ours has come back at all",
  );
  // Numbers wrap.
  const wrapped = link(2, 1);
  strictEqual(isBehind(link(0xffffffff, 0), [wrapped], 3), false);
  strictEqual(isBehind(link(0xfffffffe, 0), [wrapped], 3), true);
});

Deno.test("links that are all silent are not behind each other", () => {
  const all = [link(10, 20), link(10, 20)];
  ok(all.every((one) => !isBehind(one, all, 1)));
  const fresh = [link(0, null, null), link(0, null, null)];
  ok(fresh.every((one) => !isBehind(one, fresh, 1)));
});

Deno.test("connections take turns over the links that carry", () => {
  const all = [link(10, 20), link(5, 20), link(10, 20)];
  deepStrictEqual([0, 1, 2, 3].map((attempt) => linkFor(attempt, all, 3)), [0, 2, 0, 2]);
  const crossed = [link(10, 0), link(0, 10)];
  deepStrictEqual([0, 1, 2].map((attempt) => linkFor(attempt, crossed, 3)), [0, 1, 0]);
  const single = [link(0, null, null)];
  strictEqual(linkFor(5, single, 3), 0);
});

seededTest("what is not confirmed comes back whole, in order and once", (random) => {
  for (let round = 0; round < rounds(50); round++) {
    const size = 1 + random.integer(2000);
    const retained = new Retained(size);
    let kept: { seq: number | null; octets: Uint8Array }[] = [];
    let seq = 0xffffff00;
    for (let step = 0; step < 300; step++) {
      if (random.next() < 0.6) {
        const octets = randomOctets(random, 1 + random.integer(200));
        const number = random.next() < 0.2 ? null : seq = (seq + 1) >>> 0 || 1;
        const fits = kept.reduce((sum, one) => sum + one.octets.length, octets.length) <= size;
        strictEqual(retained.add(number, octets), fits);
        if (fits) kept.push({ seq: number, octets });
      } else {
        const numbers = kept.flatMap((one) => one.seq === null ? [] : [one.seq]);
        const confirmed = numbers[random.integer(Math.max(1, numbers.length))];
        if (confirmed !== undefined) {
          ok(retained.confirm(confirmed));
          kept = kept.slice(kept.findIndex((one) => one.seq === confirmed) + 1);
          ok(retained.confirm(confirmed), "said again it changes nothing");
        }
        strictEqual(retained.confirm(0x7fffffff), false);
      }
      strictEqual(retained.octets, kept.reduce((sum, one) => sum + one.octets.length, 0));
    }
    deepStrictEqual(
      [...retained.frames()].map((frame) => frame.slice()),
      kept.map((k) => k.octets),
    );
  }
});
