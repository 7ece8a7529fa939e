/**
 * faketime.ts - what makes two runs of a server draw the same numbers and see the same time
 *
 * libfaketime is loaded into the server before its own libraries and answers in their place:
 *
 *   time of day          stands still at the clock base: whatever number of connections asks, in
 *                        whatever order, every replica and every later run reads the same
 *   random numbers       getrandom(2) gives a sequence that follows from the seed, anew in each process
 *                        that is started; a process that is forked goes on where its parent was
 *   monotonic clock      is the kernel's, so that time-outs end
 *
 * What it cannot reach: programs that are linked statically or ask the kernel without the C library, process
 * ids, the order of threads and of connections, /dev/urandom.
 *
 * libfaketime leaves two files in /dev/shm for each server that it was loaded into, named after its process.
 * Sources: libfaketime's README (FAKETIME, FAKETIME_FMT, FAKERANDOM_SEED), ld.so(8), getrandom(2).
 */

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";

/** Where Debian's package libfaketime has it, below a directory for each architecture. */
const LIBRARIES = "/usr/lib";
const LIBRARY = "faketime/libfaketimeMT.so.1";
const SHARED_MEMORY = "/dev/shm";

/** A clock and a seed that all replicas of a service share. */
export interface SharedChance {
  /** Time of day that the server sees, seconds since 1970. */
  baseS: number;
  /** 64 bits that random numbers follow from, hexadecimal. */
  seed: string;
}

/**
 * The seed of a service: the same on every node that names cluster and service alike.
 *
 * @returns 16 hexadecimal digits.
 */
export function seedOf(cluster: string, service: string): string {
  return createHash("sha256").update(JSON.stringify([cluster, service])).digest("hex").slice(0, 16);
}

/**
 * Looks for the library.
 *
 * @returns Its path.
 * @throws {Error} When it is not installed.
 */
export function findFaketime(): string {
  for (const { name } of Deno.readDirSync(LIBRARIES)) {
    const path = `${LIBRARIES}/${name}/${LIBRARY}`;
    if (existsSync(path)) return path;
  }
  throw new Error(
    `determinism = "faketime" needs ${LIBRARY} below ${LIBRARIES} (Debian package libfaketime), ` +
      "and there is none",
  );
}

/**
 * Words to put before a command.
 *
 * @throws {Error} When libfaketime is not installed.
 */
export function faketimePrefix({ baseS, seed }: SharedChance): string[] {
  const preload = [findFaketime(), Deno.env.get("LD_PRELOAD")].filter((each) => each).join(":");
  return [
    "env",
    `LD_PRELOAD=${preload}`,
    "FAKETIME_FMT=%s",
    `FAKETIME=${baseS}`,
    "FAKETIME_DONT_FAKE_MONOTONIC=1",
    `FAKERANDOM_SEED=0x${seed}`,
  ];
}

/** Removes what libfaketime has left behind of a server's process that has ended. */
export function removeFaketimeFiles(pid: number): void {
  for (const name of [`faketime_shm_${pid}`, `sem.faketime_sem_${pid}`]) {
    try {
      Deno.removeSync(`${SHARED_MEMORY}/${name}`);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}
