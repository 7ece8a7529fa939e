/**
 * seeded.ts - unit tests whose random choices a seed repeats
 *
 * Every such test prints its seed first; `HOLDFAST_SEED=N` repeats it. `HOLDFAST_FUZZ` is how many
 * times as long as usual the random parts run: 1 by default, 0.1 for a tenth. Without it, ten times
 * the share HOLDFAST_REPEAT of the promised repetitions (test/run.ts), so `--full` runs ten times as
 * many.
 */
import { Random } from "../net/random.ts";

/**
 * Registers a test with random choices.
 *
 * @param name Title: the subject and the claim.
 * @param body The test.
 */
export function seededTest(name: string, body: (random: Random) => void): void {
  Deno.test(name, () => {
    const seed = seedOfRun();
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

function seedOfRun(): number {
  const text = Deno.env.get("HOLDFAST_SEED");
  if (text === undefined) return crypto.getRandomValues(new Uint32Array(1))[0];
  const seed = Number(text);
  if (Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32) return seed;
  throw new RangeError(`HOLDFAST_SEED is '${text}', allowed is a whole number from 0 to 2^32 - 1`);
}
