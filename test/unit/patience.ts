/**
 * patience.ts - questions to a register that are asked again while the machine is slow
 *
 * A client of a register gives up after a fraction of a second, as a service waits for the answer. A
 * disk or a scheduler that stalls for longer must fail no test: the same claim asked again is granted
 * again.
 */

/** Longest time for an answer. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 100;

/**
 * Asks until there is an answer.
 *
 * @param ask A question that may be asked twice; null is no answer yet.
 * @returns The first answer.
 * @throws What the question threw last, when it had no answer in 30 s or its answer is an error other
 * than that nobody answered.
 */
export async function answerTo<T>(ask: () => Promise<T | null>): Promise<T> {
  const deadlineMs = performance.now() + PATIENCE_MS;
  for (;;) {
    let error: unknown = new Error("no answer yet");
    try {
      const answer = await ask();
      if (answer !== null) return answer;
    } catch (thrown) {
      if (!/no answer/.test((thrown as Error).message)) throw thrown;
      error = thrown;
    }
    if (performance.now() > deadlineMs) throw error;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
