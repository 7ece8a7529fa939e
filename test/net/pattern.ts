/**
 * pattern.ts - an endless stream of octets that a number names and any part of which can be checked
 *
 * Theory of operation
 * The stream is one random block whose length is a prime number, repeated; its name says at which
 * octet of the block it begins. Two places of a stream hold the same octets only if they are a whole
 * number of blocks apart, and losses, repetitions and cuts of TCP come in other lengths, so whatever
 * is lost, repeated or swapped shows up at the first wrong octet. Checking is one comparison of
 * memory per piece.
 */

import { Buffer } from "node:buffer";
import { Random } from "./random.ts";

/** Length of the block: the largest prime number below 2^20. */
const BLOCK_LENGTH = 1_048_573;
/** Two blocks one after the other, so that any piece of up to one block lies in one place. */
const blocks = makeBlocks();

/**
 * A piece of a stream.
 *
 * @param name Name of the stream, any whole number from 0.
 * @param offset Where the piece begins.
 * @param length Its length, at most BLOCK_LENGTH.
 * @returns A view that must not be written to.
 * @throws {RangeError} If the length is too large.
 */
export function patternAt(name: number, offset: number, length: number): Uint8Array {
  if (length > BLOCK_LENGTH) {
    throw new RangeError(`Cannot give ${length} octets in one piece: the limit is ${BLOCK_LENGTH}`);
  }
  const start = (name + offset) % BLOCK_LENGTH;
  return blocks.subarray(start, start + length);
}

/**
 * Compares octets with a stream.
 *
 * @param octets What came.
 * @param name Name of the stream it should be of.
 * @param offset Where in the stream it should be.
 * @returns Offset of the first wrong octet in the stream, or -1 when all are right.
 */
export function findMismatch(octets: Uint8Array, name: number, offset: number): number {
  for (let done = 0; done < octets.length; done += BLOCK_LENGTH) {
    const piece = octets.subarray(done, done + BLOCK_LENGTH);
    const expected = patternAt(name, offset + done, piece.length);
    if (Buffer.compare(piece, expected) === 0) continue;
    return offset + done + piece.findIndex((octet, index) => octet !== expected[index]);
  }
  return -1;
}

function makeBlocks(): Uint8Array {
  const random = new Random(1);
  const twice = new Uint8Array(2 * BLOCK_LENGTH);
  for (let at = 0; at < BLOCK_LENGTH; at++) twice[at] = random.integer(256);
  twice.copyWithin(BLOCK_LENGTH, 0, BLOCK_LENGTH);
  return twice;
}
