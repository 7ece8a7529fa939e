/**
 * witness.ts - `holdfast witness`: keep the registers that decide who is primary
 *
 * Theory of operation
 * One small process on a third host, for any number of clusters. It is asked only at a change of
 * hands; while it is away, running services go on, but nobody takes over. Everything it must not
 * forget is in the file of `--state`. It ends at SIGTERM, and by itself, with status 1, when that file
 * cannot be written.
 */

import { type Endpoint, formatHostPort, parseHostPort } from "../io/address.ts";
import { createLogger, type LogFormat, type LogLevel } from "../log.ts";
import { startWitness } from "../witness/server.ts";
import { RegisterStore } from "../witness/store.ts";
import { notifyManager } from "./notify.ts";
import { EXIT_DONE, EXIT_FAILED, UsageError } from "./output.ts";

/** Options of `holdfast witness`. */
export interface WitnessOptions {
  /** Address and port to listen on. */
  listen: string;
  /** File of the registers. */
  state: string;
  /** Form of log lines. */
  logFormat: LogFormat;
  /** Least grave level that is logged. */
  logLevel: LogLevel;
}

/**
 * Runs a witness until a signal.
 *
 * @returns The exit status.
 * @throws {UsageError} When `--listen` is no address and port.
 */
export async function witness(options: WitnessOptions): Promise<number> {
  const log = createLogger({ format: options.logFormat, level: options.logLevel });
  const { address, port } = endpointOf(options.listen);
  const signaled = Promise.withResolvers<string>();
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(signal, () => signaled.resolve(signal));
  }
  let store: RegisterStore | null = null;
  try {
    store = RegisterStore.open(options.state);
    const server = await startWitness(store, { address: address.text, port, log });
    notifyManager("READY=1");
    const listen = formatHostPort({ address, port: server.port });
    log.info("up", { listen, state: options.state, registers: store.size });
    const failure = await Promise.race([signaled.promise.then(() => null), server.failed]);
    await server.close();
    if (failure === null) return EXIT_DONE;
    log.error("stopping", { why: failure });
    return EXIT_FAILED;
  } catch (error) {
    log.error("cannot run", { why: (error as Error).message });
    return EXIT_FAILED;
  } finally {
    store?.close();
  }
}

function endpointOf(text: string): Endpoint {
  try {
    return parseHostPort(text);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UsageError(
      `Cannot listen on "${text}": allowed is an address and port, "10.0.0.9:7950"`,
    );
  }
}
