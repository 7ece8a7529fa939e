/**
 * content.ts - a large file whose every block differs, made once and shared by both replicas
 *
 * Theory of operation
 * The file is one random mebibyte over and over, each time with its block number written into every
 * page, so no two pages are alike: a block that is lost, repeated or swapped changes the hash. It is
 * written out in full, without holes. The hash is taken while writing.
 */

import { createHash } from "node:crypto";
import { Random } from "./random.ts";

const BLOCK_LENGTH = 1 << 20;
const PAGE_LENGTH = 4096;

/** A file and what it holds. */
export interface Content {
  /** Where it is. */
  path: string;
  /** Its length. */
  octets: number;
  /** SHA-256 of it, in hex. */
  sha256: string;
}

/**
 * Writes a file of reproducible content.
 *
 * @param path Where to write it.
 * @param octets Its length, a multiple of 1 MiB.
 * @returns What was written.
 * @throws {RangeError} If `octets` is no multiple of 1 MiB.
 */
export function makeContent(path: string, octets: number): Content {
  if (octets % BLOCK_LENGTH !== 0) {
    throw new RangeError(
      `Cannot make a file of ${octets} octets: not a multiple of ${BLOCK_LENGTH}`,
    );
  }
  const random = new Random(octets / BLOCK_LENGTH);
  const block = Uint8Array.from({ length: BLOCK_LENGTH }, () => random.integer(256));
  const view = new DataView(block.buffer);
  const hash = createHash("sha256");
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  for (let number = 0; number < octets / BLOCK_LENGTH; number++) {
    for (let at = 0; at < BLOCK_LENGTH; at += PAGE_LENGTH) view.setUint32(at, number);
    hash.update(block);
    for (let written = 0; written < BLOCK_LENGTH;) {
      written += file.writeSync(block.subarray(written));
    }
  }
  return { path, octets, sha256: hash.digest("hex") };
}
