/**
 * output.ts - where the program's words go, and what its exit status means
 *
 * Theory of operation
 * What was asked for goes to standard output, everything else to standard error. A reader that has gone
 * away (`holdfast connections | head`) is no failure.
 */

/** Exit status: it was done. */
export const EXIT_DONE = 0;
/** Exit status: it could not be done. */
export const EXIT_FAILED = 1;
/** Exit status: it was asked for in a way that makes no sense, or the configuration does not. */
export const EXIT_USAGE = 2;

/** The program was not used as it can be. */
export class UsageError extends Error {
  /** Always "UsageError". */
  override readonly name = "UsageError";
}

const encoder = new TextEncoder();

/** Writes text to standard output. */
export function print(text: string): void {
  writeAll(Deno.stdout, text);
}

/** Writes one JSON document to standard output. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2) + "\n");
}

/** Writes a message to standard error. */
export function complain(text: string): void {
  writeAll(Deno.stderr, text.endsWith("\n") ? text : `${text}\n`);
}

function writeAll(stream: { writeSync(octets: Uint8Array): number }, text: string): void {
  try {
    let rest = encoder.encode(text);
    while (rest.length > 0) rest = rest.subarray(stream.writeSync(rest));
  } catch (error) {
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}
