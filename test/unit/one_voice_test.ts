/** one_voice_test.ts - the oracle of P3: what counts as a second voice, and what does not. */

import assert from "node:assert/strict";
import { findSecondVoice, type Said, turnsOf } from "../net/one_voice.ts";

/** "a1 b2!" is a segment of a at 1 ms and a claim of b at 2 ms. */
function saidOf(text: string): Said[] {
  return text.split(" ").map((word) => ({
    mac: word[0],
    timeMs: parseFloat(word.slice(1)),
    isClaim: word.endsWith("!"),
  }));
}

function secondVoice(text: string, owners: string): string | undefined {
  return findSecondVoice(turnsOf(saidOf(text)), [...owners])?.mac;
}

Deno.test("turnsOf() makes one turn of what a card says without interruption", () => {
  assert.deepEqual(turnsOf(saidOf("a1! a2 a3 b9! b10")), [
    { mac: "a", fromMs: 1, toMs: 3 },
    { mac: "b", fromMs: 9, toMs: 10 },
  ]);
});

Deno.test("turnsOf() passes over an announcement that crossed the change of hands, and no other", () => {
  assert.equal(turnsOf(saidOf("a1 b9! a10! b11")).length, 2);
  assert.equal(turnsOf(saidOf("a1 b9! a20! b21")).length, 4, "too late");
  assert.equal(turnsOf(saidOf("a1 b9 a10 b11")).length, 4, "a segment");
});

Deno.test("findSecondVoice() finds who speaks out of turn", () => {
  assert.equal(secondVoice("a1 a2", "ab"), undefined, "the second said nothing");
  assert.equal(secondVoice("b1 b2", "ab"), undefined, "the first said nothing");
  assert.equal(secondVoice("a1 b2 a3", "aba"), undefined);
  assert.equal(secondVoice("a1 b2 a3", "ab"), "a");
  assert.equal(secondVoice("a1 b2", "a"), "b");
  assert.equal(secondVoice("b1 a2", "ab"), "a");
  assert.equal(secondVoice("a1 c2", "ab"), "c");
});
