/**
 * seeded.ts - unit tests whose random choices a seed repeats
 *
 * Every such test prints its seed first; `HOLDFAST_SEED=N` repeats it. Of itself a test has a seed of its own
 * that stays, so that what fails is what was changed, unless each run is to try other moments (`fresh`).
 * `HOLDFAST_SEED=random` takes another one each time for all, to look for what nobody thought of; so does
 * `--full` (test/run.ts).
 *
 * `HOLDFAST_FUZZ` is how many times as long as usual the random parts run: 1 by default, 0.1 for a tenth.
 * Without it, ten times the share HOLDFAST_REPEAT of the promised repetitions (test/run.ts), so `--full` runs
 * ten times as many.
 */
import { Random, seedOfRun } from "../net/random.ts";

/**
 * Registers a test with random choices.
 *
 * @param name Title: the subject and the claim.
 * @param body The test.
 * @param options `fresh`: another seed in each run, whoever runs it.
 */
export function seededTest(
  name: string,
  body: (random: Random) => void,
  { fresh = false }: { fresh?: boolean } = {},
): void {
  Deno.test(name, () => {
    const seed = seedOfRun(fresh ? null : seedOf(name));
    console.log(`seed ${seed}  ->  HOLDFAST_SEED=${seed}`);
    try {
      body(new Random(seed));
    } catch (error) {
      // A report of failures keeps errors, not what was printed.
      throw new Error(`failed with HOLDFAST_SEED=${seed}`, { cause: error });
    }
  });
}

/**
 * How often something random repeats.
 *
 * @param usual Repetitions of a usual run.
 * @throws {RangeError} If HOLDFAST_FUZZ is not a number above 0.
 */
export function rounds(usual: number): number {
  const share = Deno.env.get("HOLDFAST_REPEAT") ?? "0.1";
  const text = Deno.env.get("HOLDFAST_FUZZ") ?? String(10 * Number(share));
  const times = Number(text);
  if (!(times > 0)) throw new RangeError(`HOLDFAST_FUZZ is '${text}', allowed is a number above 0`);
  return Math.max(1, Math.round(usual * times));
}

/** Random octets. */
export function randomOctets(random: Random, length: number): Uint8Array {
  return Uint8Array.from({ length }, () => random.integer(256));
}

/** One of several, each as likely. */
export function pick<T>(random: Random, choices: readonly T[]): T {
  return choices[random.integer(choices.length)];
}

/** FNV-1a of a test's name. */
function seedOf(name: string): number {
  let hash = 0x811c9dc5;
  for (const octet of new TextEncoder().encode(name)) hash = Math.imul(hash ^ octet, 0x01000193);
  return hash >>> 0;
}
