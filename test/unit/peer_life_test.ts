/**
 * peer_life_test.ts - which of the beats that arrive are news?
 */
import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { FORMER_MS, PeerLife } from "../../runtime/protocol/peer_life.ts";

/** What is made of beats `[incarnation, seq]`, 10 ms apart. */
function notes(life: PeerLife, beats: [number, number][], startMs = 0): string[] {
  return beats.map(([incarnation, seq], i) => life.note({ incarnation, seq }, startMs + 10 * i));
}

Deno.test("beats of one life are news in their order, and once", () => {
  const beats: [number, number][] = [[7, 5], [7, 6], [7, 6], [7, 9], [7, 8], [7, 10]];
  deepStrictEqual(notes(new PeerLife(), beats), ["next", "next", "late", "next", "late", "next"]);
});

Deno.test("numbers go around", () => {
  const beats: [number, number][] = [[7, 0xffffffff], [7, 0], [7, 0xffffffff], [7, 1]];
  deepStrictEqual(notes(new PeerLife(), beats), ["next", "next", "late", "next"]);
});

Deno.test("another life is the next one, and what comes late of the one before is not news", () => {
  const life = new PeerLife();
  deepStrictEqual(notes(life, [[7, 5], [8, 1], [7, 6], [8, 2]]), [
    "next",
    "reborn",
    "late",
    "next",
  ]);
  strictEqual(life.note({ incarnation: 9, seq: 1 }, 50), "reborn");
  strictEqual(life.note({ incarnation: 8, seq: 3 }, 60), "late");
});

Deno.test("a life that was taken for the former is believed when the other one is silent", () => {
  const life = new PeerLife();
  notes(life, [[8, 1], [7, 6]]); // the second is a late one, which who has just started cannot know
  strictEqual(life.note({ incarnation: 8, seq: 2 }, 20), "late");
  strictEqual(life.note({ incarnation: 8, seq: 3 }, 10 + FORMER_MS), "reborn");
  strictEqual(life.note({ incarnation: 8, seq: 4 }, 20 + FORMER_MS), "next");
});
