/**
 * command.ts - run a program to its end, with a deadline
 *
 * Theory of operation
 * `runCommand()` starts a program without a shell, waits for its end, and hands back its status and
 * what it printed. One that takes longer than COMMAND_TIMEOUT_MS is killed. A program that is not
 * installed has the status NOT_FOUND, as in a shell, so that a caller can try another one.
 */

/** How long a program may run. */
export const COMMAND_TIMEOUT_MS = 10_000;
/** Status of a program that is not installed. */
export const NOT_FOUND = 127;

/** How a program ended. */
export interface CommandResult {
  /** Its exit status, 0 for success. */
  code: number;
  /** Its standard output. */
  output: string;
  /** Its standard error in one line, for messages. */
  complaint: string;
}

/**
 * Runs a program with nothing on its standard input.
 *
 * @param input Text for its standard input.
 */
export async function runCommand(
  words: readonly string[],
  input?: string,
): Promise<CommandResult> {
  const [program, ...args] = words;
  try {
    const child = new Deno.Command(program, {
      args,
      stdin: input === undefined ? "null" : "piped",
      stdout: "piped",
      stderr: "piped",
      signal: AbortSignal.timeout(COMMAND_TIMEOUT_MS),
    }).spawn();
    if (input !== undefined) await new Blob([input]).stream().pipeTo(child.stdin).catch(() => {});
    const { code, stdout, stderr } = await child.output();
    const decoder = new TextDecoder();
    return {
      code,
      output: decoder.decode(stdout),
      complaint: decoder.decode(stderr).trim().replaceAll("\n", "; "),
    };
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return { code: NOT_FOUND, output: "", complaint: `${program} is not installed` };
  }
}

/**
 * Runs a program that has to succeed.
 *
 * @returns Its standard output.
 * @throws {Error} Naming the command and what it said.
 */
export async function mustRun(...words: string[]): Promise<string> {
  const { code, output, complaint } = await runCommand(words);
  if (code !== 0) {
    throw new Error(
      `Cannot run "${words.join(" ")}": status ${code}, ${complaint || "no message"}`,
    );
  }
  return output;
}
