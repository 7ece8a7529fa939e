/**
 * lane_test.ts - the faults of the test hop, without a network
 *
 * Frames carry their number in octet 60, so that the order of departure can be read back.
 */

import assert from "node:assert/strict";
import { Lane, type LaneOptions, SLOT_COUNT, SLOT_LENGTH } from "../net/lane.ts";

const CLEAN: LaneOptions = {
  seed: 7,
  lossRatio: 0,
  duplicateRatio: 0,
  reorderRatio: 0,
  delayMs: 0,
  jitterMs: 0,
};

function put(lane: Lane, number: number, nowMs: number, isTcp = true): void {
  const slot = lane.freeSlot();
  assert.notEqual(slot, -1);
  const frame = lane.octets.subarray(slot * SLOT_LENGTH, slot * SLOT_LENGTH + 64);
  frame.fill(0);
  if (isTcp) frame.set([8, 0], 12);
  if (isTcp) frame[23] = 6;
  else frame.set([8, 6], 12);
  frame[60] = number;
  lane.accept(64, nowMs);
}

function take(lane: Lane, nowMs: number): number[] {
  const numbers: number[] = [];
  for (let slot = lane.takeDue(nowMs); slot !== -1; slot = lane.takeDue(nowMs)) {
    assert.equal(lane.lengthOf(slot), 64);
    numbers.push(lane.octets[slot * SLOT_LENGTH + 60]);
  }
  return numbers;
}

Deno.test("Lane without faults hands frames on at once and in order", () => {
  const lane = new Lane(CLEAN);
  for (let number = 0; number < 5; number++) put(lane, number, 0);
  assert.deepEqual(take(lane, 0), [0, 1, 2, 3, 4]);
  assert.equal(lane.waitMs(0), Infinity);
});

Deno.test("Lane loses about as many TCP frames as asked, the same ones for a seed", () => {
  const runs = [1, 2].map(() => {
    const lane = new Lane({ ...CLEAN, lossRatio: 0.05 });
    const arrived: number[] = [];
    for (let number = 0; number < 10_000; number++) {
      put(lane, number & 255, number);
      arrived.push(...take(lane, number));
    }
    assert.ok(lane.statistics.lost > 400 && lane.statistics.lost < 600);
    assert.equal(arrived.length, 10_000 - lane.statistics.lost);
    return arrived;
  });
  assert.deepEqual(runs[0], runs[1]);
});

Deno.test("Lane harms nothing but TCP", () => {
  const lane = new Lane({ ...CLEAN, lossRatio: 1, duplicateRatio: 1, reorderRatio: 1 });
  put(lane, 1, 0, false);
  put(lane, 2, 0, true);
  assert.deepEqual(take(lane, 0), [1]);
});

Deno.test("Lane delivers a doubled frame twice in a row", () => {
  const lane = new Lane({ ...CLEAN, duplicateRatio: 1 });
  put(lane, 1, 0);
  put(lane, 2, 0);
  assert.deepEqual(take(lane, 0), [1, 1, 2, 2]);
});

Deno.test("Lane lets later frames pass a reordered one and loses none", () => {
  const lane = new Lane({ ...CLEAN, reorderRatio: 0.2 });
  const arrived: number[] = [];
  for (let number = 0; number < 200; number++) {
    put(lane, number, number);
    arrived.push(...take(lane, number));
  }
  arrived.push(...take(lane, 300));
  assert.ok(lane.statistics.reordered > 10);
  assert.notDeepEqual(arrived, arrived.toSorted((a, b) => a - b));
  assert.deepEqual(arrived.toSorted((a, b) => a - b), [...Array(200).keys()]);
});

Deno.test("Lane releases a reordered frame when nothing follows it", () => {
  const lane = new Lane({ ...CLEAN, reorderRatio: 1 });
  put(lane, 9, 0);
  assert.deepEqual(take(lane, 0), []);
  assert.ok(lane.waitMs(0) > 0 && lane.waitMs(0) <= 10);
  assert.deepEqual(take(lane, 10), [9]);
});

Deno.test("Lane delays by delay and jitter without reordering", () => {
  const lane = new Lane({ ...CLEAN, delayMs: 20, jitterMs: 10 });
  for (let number = 0; number < 100; number++) put(lane, number, 0);
  assert.deepEqual(take(lane, 19), []);
  assert.deepEqual(take(lane, 30), [...Array(100).keys()]);
});

Deno.test("Lane says when it is full and works again when it is not", () => {
  const lane = new Lane({ ...CLEAN, delayMs: 1 });
  for (let number = 0; number < SLOT_COUNT; number++) put(lane, number & 255, 0);
  assert.equal(lane.freeSlot(), -1);
  assert.equal(take(lane, 1).length, SLOT_COUNT);
  put(lane, 1, 2);
  assert.deepEqual(take(lane, 3), [1]);
});

Deno.test("new Lane() refuses a ratio or delay that makes no sense", () => {
  assert.throws(() => new Lane({ ...CLEAN, lossRatio: 1.5 }), /lossRatio is 1.5, allowed is 0 to/);
  assert.throws(() => new Lane({ ...CLEAN, delayMs: -1 }), /delayMs is -1/);
});
