/**
 * up.ts - `holdfast up`: run a node until it is told to stop
 *
 * Theory of operation
 *
 *   configuration -> control socket -> daemon -> READY=1 -> signal -> hand over, stop -> exit
 *
 * The control socket comes first: it is what tells that this node runs already. SIGTERM and SIGINT stop
 * the node in order, which lets a standby take every connection; a second signal ends it at once, which
 * is a crash that the standby takes over from. When the data plane ends by itself the program ends with
 * status 1, so that a service manager can start it again.
 *
 * Limits: stopping takes at most STOP_TIMEOUT_MS.
 */

import { type Config, loadConfig, warnings } from "../config.ts";
import { type ControlServer, startControl } from "../control.ts";
import { createLogger, type LogFormat, type Logger, type LogLevel } from "../log.ts";
import type { DaemonApi } from "../status.ts";
import { type ManagerState, notifyManager, watchdogIntervalMs } from "./notify.ts";
import { EXIT_DONE, EXIT_FAILED } from "./output.ts";

/** How long an orderly stop may take, milliseconds. */
const STOP_TIMEOUT_MS = 14_000;
const STOP_SIGNALS = ["SIGTERM", "SIGINT"] as const;

/** Options of `holdfast up`. */
export interface UpOptions {
  /** The configuration file. */
  config: string;
  /** Form of log lines. */
  logFormat: LogFormat;
  /** Least grave level that is logged. */
  logLevel: LogLevel;
}

/**
 * Runs a node until a signal.
 *
 * @returns The exit status.
 * @throws {ConfigError} When the configuration cannot be used.
 */
export async function up(options: UpOptions): Promise<number> {
  const config = await loadConfig(options.config);
  const log = createLogger({ format: options.logFormat, level: options.logLevel });
  for (const warning of warnings(config)) log.warn("configuration", { warning });
  const signaled = firstSignal(log);
  let control: ControlServer | null = null;
  try {
    control = await startControl(config.node.control);
    return await runNode(config, { log, control, signaled });
  } catch (error) {
    log.error("cannot run", { why: (error as Error).message });
    return EXIT_FAILED;
  } finally {
    await control?.close();
  }
}

interface NodeSurroundings {
  log: Logger;
  control: ControlServer;
  signaled: Promise<string>;
}

/** Starts the daemon, waits for its end, and stops it. */
async function runNode(config: Config, around: NodeSurroundings): Promise<number> {
  const { log, control, signaled } = around;
  const { startDaemon } = await import("../daemon.ts");
  const daemon: DaemonApi = await startDaemon(config, log);
  control.attach(daemon);
  notify("READY=1", log);
  log.info("up", { node: config.node.name, control: config.node.control });
  const watchdog = feedWatchdog(daemon, log);
  const ended = daemon.ended ?? new Promise<string>(() => {});
  const reason = await Promise.race([
    signaled.then((signal) => ({ signal, failure: null })),
    ended.then((failure) => ({ signal: null, failure })),
  ]);
  clearInterval(watchdog);
  notify("STOPPING=1", log);
  if (reason.failure !== null) log.error("stopping", { why: reason.failure });
  else log.info("stopping", { signal: reason.signal });
  const isInTime = await stopInTime(daemon, reason.failure === null, log);
  return isInTime && reason.failure === null ? EXIT_DONE : EXIT_FAILED;
}

/** Tells the service manager that we are alive, as long as the data plane goes on. */
function feedWatchdog(
  daemon: DaemonApi,
  log: Logger,
): ReturnType<typeof setInterval> | undefined {
  const intervalMs = watchdogIntervalMs();
  if (intervalMs === null) return undefined;
  let passes = daemon.passes;
  return setInterval(() => {
    const isAlive = daemon.passes !== passes;
    passes = daemon.passes;
    if (isAlive) notify("WATCHDOG=1", log);
    else log.error("watchdog not fed", { why: "the data plane stands still" });
  }, intervalMs);
}

/** Stops the daemon; false when that fails or takes too long. */
async function stopInTime(daemon: DaemonApi, handOver: boolean, log: Logger): Promise<boolean> {
  const timeout = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => timeout.reject(new Error(`not stopped within ${STOP_TIMEOUT_MS} ms`)),
    STOP_TIMEOUT_MS,
  );
  try {
    await Promise.race([daemon.stop({ handOver }), timeout.promise]);
    log.info("stopped");
    return true;
  } catch (error) {
    log.error("cannot stop in order", { why: (error as Error).message });
    return false;
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves with the first signal to stop; the next one ends the process at once. */
function firstSignal(log: Logger): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let count = 0;
  for (const signal of STOP_SIGNALS) {
    Deno.addSignalListener(signal, () => {
      if (++count > 1) {
        log.error("ended at once by a second signal", { signal });
        Deno.exit(EXIT_FAILED);
      }
      resolve(signal);
    });
  }
  return promise;
}

/** A service manager that does not listen is no reason to stop serving. */
function notify(state: ManagerState, log: Logger): void {
  try {
    notifyManager(state);
  } catch (error) {
    log.warn("service manager not told", { why: (error as Error).message });
  }
}
