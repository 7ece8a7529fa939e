/**
 * one_voice.ts - P3 as an assertion on what a switch has carried
 *
 * Theory of operation
 * Frames whose source is the service address, and announcements of it, tell by their hardware address
 * who speaks. In order of time they make turns: one card, then another. Who may have a turn, and in which
 * order, is known to a test that has broken things; a card that speaks out of its turn is a second voice.
 * A turn in which nothing was said leaves no trace.
 *
 * A switch may still carry an announcement of the old owner when the new one begins to speak, as the two
 * leave from different cores: announcements so little late are passed over. Segments are not.
 */

import assert from "node:assert/strict";
import { addressClaims, parseSegment, readFrames } from "./capture.ts";

/** What a switch may still carry of the old primary when the new one begins to speak, milliseconds. */
const OVERLAP_MS_MAX = 5;

/** Something that was said in the name of an address. */
export interface Said {
  /** Hardware address of who said it. */
  mac: string;
  /** When, milliseconds since 1970. */
  timeMs: number;
  /** An announcement of the address, and no segment. */
  isClaim: boolean;
}

/** A card that spoke, and when. */
export interface Turn {
  /** Hardware address. */
  mac: string;
  /** First frame, milliseconds since 1970. */
  fromMs: number;
  /** Last frame before another card's. */
  toMs: number;
}

/** Who spoke, in order; `said` is ordered by time. */
export function turnsOf(said: Iterable<Said>): Turn[] {
  const turns: Turn[] = [];
  for (const { mac, timeMs, isClaim } of said) {
    const last = turns.at(-1);
    if (last?.mac === mac) last.toMs = timeMs;
    else {
      const isOld = isClaim && turns.at(-2)?.mac === mac;
      if (isOld && timeMs < last!.fromMs + OVERLAP_MS_MAX) continue;
      turns.push({ mac, fromMs: timeMs, toMs: timeMs });
    }
  }
  return turns;
}

/**
 * The first who spoke out of turn; null when nobody did.
 *
 * @param turns Who spoke.
 * @param owners Hardware addresses of those who were primary, in order.
 */
export function findSecondVoice(turns: readonly Turn[], owners: readonly string[]): Turn | null {
  let next = 0;
  for (const turn of turns) {
    const found = owners.indexOf(turn.mac, next);
    if (found < 0) return turn;
    next = found + 1;
  }
  return null;
}

/**
 * Asserts that nobody spoke out of turn, and that somebody spoke.
 *
 * @param path A capture at the switch.
 * @param address The service address.
 * @param owners Hardware addresses of those who were primary, in order; when not given, each card may
 * have one turn.
 */
export function assertOneVoice(path: string, address: string, owners?: readonly string[]): void {
  const turns = turnsOf(readSaid(path, address));
  assert.ok(turns.length > 0, `nobody spoke for ${address}`);
  const allowed = owners ?? [...new Set(turns.map(({ mac }) => mac))];
  const second = findSecondVoice(turns, allowed);
  if (second === null) return;
  assert.fail(
    `${second.mac} spoke out of turn: ${JSON.stringify(turns)}; owners were ${allowed.join(", ")}`,
  );
}

function readSaid(path: string, address: string): Said[] {
  const said: Said[] = addressClaims(path, address)
    .map(({ mac, timeMs }) => ({ mac, timeMs, isClaim: true }));
  for (const frame of readFrames(path)) {
    if (parseSegment(frame)?.source !== address) continue;
    const mac = [...frame.octets.subarray(6, 12)]
      .map((octet) => octet.toString(16).padStart(2, "0")).join(":");
    said.push({ mac, timeMs: frame.timeMs, isClaim: false });
  }
  return said.sort((a, b) => a.timeMs - b.timeMs);
}
