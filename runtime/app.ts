/**
 * app.ts - start a service's server, watch it, and never leave it behind
 *
 * Theory of operation
 * The server is started in its network namespace and replaced step by step without a fork, so the
 * process id we see is the server's own:
 *
 *   ip netns exec NETNS  setpriv --pdeathsig KILL [--reuid UID ...] --  COMMAND
 *
 * It leads a session and process group of its own. When it ends it is started again, first after
 * BACKOFF_MS_MIN, each time twice as long after a short run, at most BACKOFF_MS_MAX.
 *
 *   starting -> running -> exited -> starting ...      any -> stopped by stop(), for good
 *
 * How it ends
 *   restart()             SIGTERM, SIGKILL after STOP_GRACE_MS (if it hangs, at once); started again
 *                         without delay
 *   stop()                SIGTERM to the group, SIGKILL to what is left after STOP_GRACE_MS
 *   it ends by itself     SIGKILL to what is left of its group, which would hold its ports; the next one
 *                         is started when all of that is gone
 *   we are killed         PR_SET_PDEATHSIG kills the server; its children (a master's workers) are
 *                         killed by the guard, a shell that waits for the end of a pipe only we hold
 *
 * A server with a user of its own gets that user's groups and no capability at all; ports below 1024 are
 * then opened to everybody inside the namespace, which holds nothing but this server. Without one it is
 * root with ROOT_CAPABILITIES: enough to open its files and become another user (nginx, sshd), not to
 * touch the network, namespaces or other programs.
 *
 * Limits: OUTPUT_LINES_PER_S lines of LINE_LENGTH_MAX characters are logged, the rest is read and counted.
 * What leaves the group (setsid) is not killed.
 * Sources: ip-netns(8), setpriv(1), PR_SET_PDEATHSIG(2const), setsid(2), capabilities(7),
 * Documentation/networking/ip-sysctl.rst (ip_unprivileged_port_start).
 */

import { runCommand } from "./io/command.ts";
import { isGroupAlive } from "./io/exiting.ts";
import { faketimePrefix, removeFaketimeFiles, type SharedChance } from "./io/faketime.ts";
import { inNamespace } from "./io/netns.ts";
import { writeSysctlIfPresent } from "./io/sysctl.ts";
import type { Logger } from "./log.ts";
import type { AppStatus } from "./status.ts";

/** Wait before the first restart, milliseconds. */
export const BACKOFF_MS_MIN = 200;
/** Longest wait before a restart, milliseconds. */
export const BACKOFF_MS_MAX = 10_000;
/**
 * A run of this length was no failed start: the next wait is the shortest again. In log mode clients wait for
 * as long, so a server that served them and then died must not be held back.
 */
const STEADY_MS = 1000;
/** How long a server may take to end after SIGTERM, milliseconds. */
export const STOP_GRACE_MS = 5000;
/** How long the kernel may take to end what was killed, and its output to close, milliseconds. */
const REAP_MS = 2000;
/** Between two looks whether it has, milliseconds. */
const GROUP_LOOK_MS = 2;
/** Lines of output that are logged in one second. */
export const OUTPUT_LINES_PER_S = 100;
/** Characters of a line of output that are logged. */
const LINE_LENGTH_MAX = 2000;

/** Runs until it can read a line (dismissed) or its input ends (we are gone). */
const GUARD_SCRIPT = 'read -r word || kill -s KILL -- "-$1"';

/** What a server that runs as root keeps; capabilities(7). */
const ROOT_CAPABILITIES = [
  "chown",
  "dac_override",
  "fowner",
  "kill",
  "setgid",
  "setuid",
  "net_bind_service",
  "sys_chroot",
];

/** How a server ended. */
export interface AppExit {
  /** "status 1", "SIGSEGV", or why it could not be started. */
  how: string;
  /** How long it ran, milliseconds; 0 when it could not be started. */
  ranMs: number;
}

/** What to run, and where. */
export interface AppOptions {
  /** Name of the service, for the log. */
  service: string;
  /** Network namespace, which must exist. */
  netns: string;
  /** Program and arguments. */
  command: readonly string[];
  /** User name or number; null for the daemon's own. */
  user: string | null;
  /** Clock and seed of a server that must answer alike wherever and whenever it runs; or not given. */
  chance?: SharedChance | null;
  /** Takes the server's output and what happens to it. */
  log: Logger;
  /** Called with its process id when the server was started. */
  onStart?: (pid: number) => void;
  /** Called when the server has ended by itself. */
  onExit?: (exit: AppExit) => void;
  /** How long the server may take to end after SIGTERM, milliseconds; STOP_GRACE_MS if not given. */
  stopGraceMs?: number;
}

/** An entry of the user database; passwd(5). */
export interface Account {
  /** Login name. */
  name: string;
  /** Number of the user. */
  uid: string;
  /** Number of the user's group. */
  gid: string;
  /** Home directory. */
  home: string;
  /** Login shell. */
  shell: string;
}

/** Keeps one server running. */
export class AppRunner {
  readonly #options: AppOptions;
  #state: Exclude<AppStatus["state"], "external"> = "stopped";
  #child: Deno.ChildProcess | null = null;
  #restarts = 0;
  /** The end that comes is wanted. */
  #restarting = false;
  #lastExit: string | null = null;
  #supervision: Promise<void> | null = null;
  readonly #stopping = new AbortController();

  /** Notes what is to be run and starts nothing. */
  constructor(options: AppOptions) {
    this.#options = options;
  }

  /** Starts the server and keeps it running until {@linkcode stop}. Failures are logged, never thrown. */
  start(): void {
    if (this.#stopping.signal.aborted) throw new Error("Cannot start a server that was stopped");
    this.#supervision ??= this.#supervise();
  }

  /** What the server is doing. */
  status(): AppStatus {
    return {
      state: this.#state,
      pid: this.#child?.pid ?? null,
      restarts: this.#restarts,
      lastExit: this.#lastExit,
    };
  }

  /**
   * Ends the server and starts it again at once. One that hangs gets no time to end by itself.
   *
   * @returns When the old one has ended.
   */
  async restart({ hangs = false } = {}): Promise<void> {
    const child = this.#child;
    if (child === null) return;
    this.#restarting = true;
    if (!hangs) {
      this.#signal("SIGTERM");
      if (await settles(child.status, this.#options.stopGraceMs ?? STOP_GRACE_MS)) return;
    }
    signalGroup(child.pid, "SIGKILL");
    await child.status;
  }

  /**
   * Ends the server for good, and everything in its process group. Takes at most the grace period and
   * a few seconds; may be called any number of times.
   *
   * @throws {Error} When the kernel does not end a killed process in time.
   */
  async stop(): Promise<void> {
    this.#stopping.abort();
    const supervision = this.#supervision ?? Promise.resolve();
    this.#signal("SIGTERM");
    if (await settles(supervision, this.#options.stopGraceMs ?? STOP_GRACE_MS)) return;
    const pid = this.#child?.pid;
    this.#options.log.warn("server killed, it took too long to end", {
      service: this.#options.service,
      pid,
    });
    this.#signal("SIGKILL");
    if (await settles(supervision, 2 * REAP_MS)) return;
    throw new Error(`Cannot end process ${pid} of ${this.#options.service}: it ignores SIGKILL`);
  }

  async #supervise(): Promise<void> {
    const { service, log } = this.#options;
    const { signal } = this.#stopping;
    let backoffMs = BACKOFF_MS_MIN;
    while (!signal.aborted) {
      this.#state = "starting";
      const exit = await this.#runOnce();
      if (signal.aborted) break;
      this.#state = "exited";
      this.#lastExit = exit.how;
      if (exit.ranMs >= STEADY_MS) backoffMs = BACKOFF_MS_MIN;
      if (this.#restarting) {
        this.#restarting = false;
        this.#restarts++;
        log.info("server restarted", { service, how: exit.how, ranMs: exit.ranMs });
        continue;
      }
      log.error("server ended", {
        service,
        how: exit.how,
        ranMs: exit.ranMs,
        restartMs: backoffMs,
      });
      await delay(backoffMs, signal);
      backoffMs = Math.min(2 * backoffMs, BACKOFF_MS_MAX);
      this.#restarts++;
    }
    this.#state = "stopped";
  }

  /** Runs the server to its end. */
  async #runOnce(): Promise<AppExit> {
    const { service, netns, command, user, chance, log } = this.#options;
    let child: Deno.ChildProcess;
    try {
      const account = user === null ? null : await lookUp(user);
      if (this.#stopping.signal.aborted) return { how: "not started", ranMs: 0 };
      const prefix = chance ? faketimePrefix(chance) : [];
      child = spawnInNamespace(netns, [...prefix, ...command], account);
    } catch (error) {
      return this.#tellExit({ how: (error as Error).message, ranMs: 0 });
    }
    const startedMs = performance.now();
    const dismissGuard = spawnGuard(child.pid);
    this.#child = child;
    this.#state = "running";
    this.#options.onStart?.(child.pid);
    log.info("server started", { service, pid: child.pid, command: command });
    const output = new OutputLog(log, service);
    const outputs = Promise.all([
      output.forward("stdout", child.stdout),
      output.forward("stderr", child.stderr),
    ]);
    const status = await child.status;
    const ranMs = Math.round(performance.now() - startedMs);
    // Before any cleaning up: clients of the dead server wait.
    const exit = this.#tellExit({ how: status.signal ?? `status ${status.code}`, ranMs });
    this.#signal("SIGKILL");
    this.#child = null;
    await this.#waitForGroup(child.pid);
    await dismissGuard();
    if (!await settles(outputs, REAP_MS)) output.cancel();
    if (chance) removeFaketimeFiles(child.pid);
    return exit;
  }

  /**
   * Waits until nothing of a dead server's group holds a port or a connection: what still listened would
   * be taken for the next server.
   */
  async #waitForGroup(leader: number): Promise<void> {
    const endMs = performance.now() + REAP_MS;
    while (isGroupAlive(leader)) {
      if (performance.now() > endMs) {
        const { service, log } = this.#options;
        log.warn("a process of a dead server does not end", { service, group: leader });
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, GROUP_LOOK_MS));
    }
  }

  #tellExit(exit: AppExit): AppExit {
    if (!this.#stopping.signal.aborted) this.#options.onExit?.(exit);
    return exit;
  }

  /** Sends a signal to the server's group. */
  #signal(signal: Deno.Signal): void {
    if (this.#child !== null) signalGroup(this.#child.pid, signal);
  }
}

/** Sends a signal to a process group; one that is gone takes no harm. */
export function signalGroup(leader: number, signal: Deno.Signal): void {
  try {
    Deno.kill(-leader, signal);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/**
 * Starts a service's server, or what asks after it, as the leader of a session of its own.
 *
 * @param netns Name of the network namespace.
 * @param command Program and arguments.
 * @param account Who it runs as; null for the daemon's own user.
 * @throws {Error} When "ip" is not installed.
 */
export function spawnInNamespace(
  netns: string,
  command: readonly string[],
  account: Account | null,
): Deno.ChildProcess {
  const env = Deno.env.toObject();
  delete env.NOTIFY_SOCKET;
  const privileges = ["--pdeathsig", "KILL", "--inh-caps=-all"];
  if (account === null) {
    privileges.push(`--bounding-set=-all,${ROOT_CAPABILITIES.map((each) => `+${each}`).join()}`);
  } else {
    const { name, uid, gid, home, shell } = account;
    Object.assign(env, { HOME: home, USER: name, LOGNAME: name, SHELL: shell });
    privileges.push(`--reuid=${uid}`, `--regid=${gid}`, "--init-groups");
    privileges.push("--bounding-set=-all");
    inNamespace(netns, () => writeSysctlIfPresent("net/ipv4/ip_unprivileged_port_start", "0"));
  }
  try {
    return new Deno.Command("ip", {
      args: ["netns", "exec", netns, "setpriv", ...privileges, "--", ...command],
      env,
      clearEnv: true,
      detached: true,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Error('Cannot start a server without "ip": apt-get install iproute2');
  }
}

/**
 * Starts the process that kills the group `leader` when we are gone.
 *
 * @returns Ends the guard without harm to anybody.
 */
function spawnGuard(leader: number): () => Promise<void> {
  const guard = new Deno.Command("sh", {
    args: ["-c", GUARD_SCRIPT, "holdfast-guard", String(leader)],
    detached: true,
    stdin: "piped",
    stdout: "null",
    stderr: "null",
  }).spawn();
  return async () => {
    const writer = guard.stdin.getWriter();
    await writer.write(new TextEncoder().encode("\n")).catch(() => {});
    await writer.close().catch(() => {});
    if (!await settles(guard.status, REAP_MS)) guard.kill("SIGKILL");
  };
}

/**
 * The entry of a user in the user database.
 *
 * @throws {Error} When there is no such user.
 */
export async function lookUp(user: string): Promise<Account> {
  const { code, output } = await runCommand(["getent", "passwd", user]);
  if (code !== 0) {
    throw new Error(`Cannot run a server as user "${user}": there is no such user on this host`);
  }
  const [name, , uid, gid, , home, shell] = output.trim().split("\n")[0].split(":");
  return { name, uid, gid, home, shell };
}

/** Passes a server's output on to the log, line by line. */
class OutputLog {
  readonly #log: Logger;
  readonly #service: string;
  readonly #canceled = new AbortController();
  #secondEndsMs = 0;
  #lines = 0;
  #leftOut = 0;

  constructor(log: Logger, service: string) {
    this.#log = log;
    this.#service = service;
  }

  /** Reads a stream to its end, or until {@linkcode cancel}. */
  async forward(name: "stdout" | "stderr", stream: ReadableStream<Uint8Array>): Promise<void> {
    const reader = stream.getReader();
    const decoder = new TextDecoder();
    const onCancel = () => reader.cancel().catch(() => {});
    this.#canceled.signal.addEventListener("abort", onCancel, { once: true });
    let rest = "";
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      const lines = (rest + decoder.decode(chunk.value, { stream: true })).split("\n");
      rest = lines.pop()!;
      if (rest.length > LINE_LENGTH_MAX) {
        lines.push(rest);
        rest = "";
      }
      for (const line of lines) this.#write(name, line);
    }
    if (rest !== "") this.#write(name, rest);
    this.#reportLeftOut();
  }

  /** Stops reading what a process that has left the group still writes. */
  cancel(): void {
    this.#canceled.abort();
  }

  #write(stream: string, line: string): void {
    const nowMs = performance.now();
    if (nowMs >= this.#secondEndsMs) {
      this.#reportLeftOut();
      this.#secondEndsMs = nowMs + 1000;
      this.#lines = 0;
    }
    if (this.#lines++ >= OUTPUT_LINES_PER_S) {
      this.#leftOut++;
      return;
    }
    const text = line.slice(0, LINE_LENGTH_MAX);
    this.#log.info("server output", { service: this.#service, stream, line: text });
  }

  #reportLeftOut(): void {
    if (this.#leftOut === 0) return;
    this.#log.warn("server output left out", { service: this.#service, lines: this.#leftOut });
    this.#leftOut = 0;
  }
}

/** Whether a promise settles within `timeoutMs`. */
async function settles(promise: Promise<unknown>, timeoutMs: number): Promise<boolean> {
  const timeout = Promise.withResolvers<false>();
  const timer = setTimeout(() => timeout.resolve(false), timeoutMs);
  try {
    return await Promise.race([promise.then(() => true), timeout.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits, or less when `signal` is aborted. */
async function delay(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}
