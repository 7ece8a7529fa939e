/**
 * epoch_file.ts - the highest epoch a node has known, kept where the next start finds it
 */

/** The stored epoch; 0 when there is none yet. */
export function readEpoch(file: string): number {
  let text: string;
  try {
    text = Deno.readTextFileSync(file);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
  const epoch = Number(text.trim());
  if (!Number.isInteger(epoch) || epoch < 0 || epoch > 0xffffffff) {
    throw new Error(
      `Cannot use epoch file ${file}: it holds ${
        JSON.stringify(text.slice(0, 40))
      }, allowed is a ` +
        `number below 2^32`,
    );
  }
  return epoch;
}

/** Stores an epoch so that a reader sees the old or the new one, never half. */
export function writeEpoch(file: string, epoch: number): void {
  const temporary = `${file}.new`;
  Deno.writeTextFileSync(temporary, `${epoch}\n`, { mode: 0o600 });
  Deno.renameSync(temporary, file);
}
