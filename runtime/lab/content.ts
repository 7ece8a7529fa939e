/**
 * content.ts - octets that follow from a seed and a position alone
 *
 * Theory of operation
 * The stream of a seed is one block of pseudo-random octets over and over, in which the first four octets
 * of every page are the page's number. No two pages are alike, so octets that are lost, repeated or
 * moved change the stream, and any piece of it can be made without what comes before, at the speed of
 * copying. Both replicas and the client make the same stream without sharing a file.
 *
 *   offset   0        4           4096     4100         262144
 *            | page 0 | block ... | page 1 | block ...  | page 64 | block from its start ...
 *
 * Limits: 2^32 pages, 16 TiB; blocks of BLOCKS_MAX seeds are kept.
 */

import { createHash } from "node:crypto";

const BLOCK_LENGTH = 256 * 1024;
const PAGE_LENGTH = 4096;
const STAMP_LENGTH = 4;
const BLOCKS_MAX = 16;
/** Longest stream, octets. */
export const CONTENT_LENGTH_MAX: number = 2 ** 32 * PAGE_LENGTH;
/** Octets hashed at a time. */
const HASH_LENGTH = BLOCK_LENGTH;

const blocks = new Map<number, Uint8Array>();

/**
 * Fills `target` with the octets of a seed's stream from `offset` on.
 *
 * @param seed A whole number from 0 to 2^32 - 1.
 */
export function fillContent(target: Uint8Array, offset: number, seed: number): void {
  const block = blockOf(seed);
  for (let at = 0; at < target.length;) {
    const from = (offset + at) % BLOCK_LENGTH;
    const length = Math.min(BLOCK_LENGTH - from, target.length - at);
    target.set(length === BLOCK_LENGTH ? block : block.subarray(from, from + length), at);
    at += length;
  }
  const view = new DataView(target.buffer, target.byteOffset, target.length);
  for (let page = Math.floor(offset / PAGE_LENGTH);; page++) {
    const at = page * PAGE_LENGTH - offset;
    if (at >= target.length) return;
    if (at >= 0 && at + STAMP_LENGTH <= target.length) view.setUint32(at, page);
    else stampInPart(target, at, page);
  }
}

/**
 * SHA-256 of the first `octets` of a seed's stream, in hex; 1 GB takes about 0.7 s, during which
 * other tasks get their turn.
 */
export async function contentSha256(octets: number, seed: number): Promise<string> {
  const hash = createHash("sha256");
  const buffer = new Uint8Array(HASH_LENGTH);
  for (let offset = 0; offset < octets; offset += HASH_LENGTH) {
    const piece = buffer.subarray(0, Math.min(HASH_LENGTH, octets - offset));
    fillContent(piece, offset, seed);
    hash.update(piece);
    if (offset % (64 * HASH_LENGTH) === 0) await new Promise((resolve) => setTimeout(resolve));
  }
  return hash.digest("hex");
}

/** Writes the part of a page's number that lies within `target`. */
function stampInPart(target: Uint8Array, at: number, page: number): void {
  for (let i = 0; i < STAMP_LENGTH; i++) {
    const place = at + i;
    if (place >= 0 && place < target.length) target[place] = page >>> (8 * (STAMP_LENGTH - 1 - i));
  }
}

function blockOf(seed: number): Uint8Array {
  const known = blocks.get(seed);
  if (known !== undefined) return known;
  if (blocks.size >= BLOCKS_MAX) blocks.delete(blocks.keys().next().value!);
  const block = new Uint8Array(BLOCK_LENGTH);
  const view = new DataView(block.buffer);
  let state = seed >>> 0;
  for (let at = 0; at < BLOCK_LENGTH; at += 4) {
    // The mixing steps of splitmix32: every seed gives another sequence, zero included.
    state = (state + 0x9e3779b9) >>> 0;
    let word = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    word = Math.imul(word ^ (word >>> 15), 0x735a2d97);
    view.setUint32(at, (word ^ (word >>> 15)) >>> 0);
  }
  blocks.set(seed, block);
  return block;
}
