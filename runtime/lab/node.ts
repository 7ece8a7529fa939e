/**
 * node.ts - one machine of the lab: a network namespace in which programs are run
 *
 * Theory of operation
 * `ip netns exec` enters the namespace and replaces itself by the program, so the process id is the
 * program's own. It also makes a mount namespace with a /sys of its own: namespaces that are to be seen
 * by programs inside must be made before, outside. Every process started here is remembered, so that
 * {@linkcode NodeProcesses.ended} can wait for all of them.
 */

/** How long a program may run in {@linkcode Node.exec}, milliseconds. */
const EXEC_TIMEOUT_MS = 30_000;

/** What a program left behind. */
export interface ExecResult {
  /** Its exit status. */
  code: number;
  /** Its standard output. */
  stdout: string;
  /** Its standard error. */
  stderr: string;
}

/** How a program is run to its end. */
export interface ExecOptions {
  /** Environment variables beside ours. */
  env?: Record<string, string>;
  /** Working directory. */
  cwd?: string;
  /** How long it may take, milliseconds; 30 s when not given. */
  timeoutMs?: number;
}

/** One machine of a topology. */
export interface Node {
  /** Its name in the topology: "a", "b", "client0", "switch". */
  readonly name: string;
  /** Name of its network namespace. */
  readonly netns: string;
  /** Its address on the client network; empty for the switch, which has none. */
  readonly address: string;
  /**
   * Runs a program on this machine to its end, with nothing on its standard input.
   *
   * @throws {Error} When it takes longer than `timeoutMs`; it is killed then.
   */
  exec(command: readonly string[], options?: ExecOptions): Promise<ExecResult>;
  /** Starts a program on this machine. */
  spawn(command: readonly string[], options?: Omit<Deno.CommandOptions, "args">): Deno.ChildProcess;
}

/** Processes of all machines of one topology. */
export class NodeProcesses {
  readonly #running = new Set<Deno.ChildProcess>();

  /** Starts a program in a namespace. */
  spawn(
    netns: string,
    command: readonly string[],
    options: Omit<Deno.CommandOptions, "args"> = {},
  ): Deno.ChildProcess {
    const child = new Deno.Command("ip", {
      stdin: "null",
      ...options,
      args: ["netns", "exec", netns, ...command],
    }).spawn();
    this.#running.add(child);
    child.status.then(() => this.#running.delete(child));
    return child;
  }

  /** Resolves when every process has ended; ask for that only once all have been killed. */
  async ended(): Promise<void> {
    await Promise.all([...this.#running].map((child) => child.status));
  }
}

/** Makes a machine from a namespace that exists. */
export function createNode(
  identity: { name: string; netns: string; address: string },
  processes: NodeProcesses,
): Node {
  const { name, netns, address } = identity;
  return {
    name,
    netns,
    address,
    spawn: (command, options) => processes.spawn(netns, command, options),
    exec: async (command, options = {}) => {
      const { env, cwd, timeoutMs = EXEC_TIMEOUT_MS } = options;
      const child = processes.spawn(netns, command, {
        env,
        cwd,
        stdout: "piped",
        stderr: "piped",
      });
      let isLate = false;
      const timer = setTimeout(() => {
        isLate = true;
        child.kill("SIGKILL");
      }, timeoutMs);
      const { code, stdout, stderr } = await child.output();
      clearTimeout(timer);
      const decoder = new TextDecoder();
      const result = { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
      if (!isLate) return result;
      throw new Error(
        `Cannot wait longer for "${
          command.join(" ")
        }" on ${name}: not ended after ${timeoutMs} ms; ` +
          `it said: ${(result.stdout + result.stderr).slice(-2000)}`,
      );
    },
  };
}
