/**
 * ask.ts - the commands that ask a running daemon: status, connections, switch, restart
 *
 * Theory of operation
 * Which daemon: `--control PATH`, or the socket that the configuration of `-c FILE` names, or, without
 * either, the only socket in SOCKET_DIRECTORY. The answer is printed as text, or as the JSON it is.
 */

import { loadConfig } from "../config.ts";
import { ControlClient } from "../control.ts";
import { renderConnections, renderRestart, renderStatus, renderSwitch } from "../status.ts";
import { EXIT_DONE, print, printJson, UsageError } from "./output.ts";

/** Where daemons put their sockets unless told otherwise. */
export const SOCKET_DIRECTORY = "/run/holdfast";

/** Options of every command that asks a daemon. */
export interface AskOptions {
  /** Configuration of the daemon. */
  config?: string;
  /** Its control socket. */
  control?: string;
  /** Print JSON. */
  json?: boolean;
}

/** `holdfast status`. */
export async function status(options: AskOptions): Promise<number> {
  const answer = await (await clientFor(options)).status();
  if (options.json) printJson(answer);
  else print(renderStatus(answer));
  return EXIT_DONE;
}

/** `holdfast connections`. */
export async function connections(options: AskOptions): Promise<number> {
  const answer = await (await clientFor(options)).connections();
  if (options.json) printJson(answer);
  else print(renderConnections(answer));
  return EXIT_DONE;
}

/** `holdfast switch SERVICE [--to NODE]`. */
export async function switchService(
  service: string,
  options: AskOptions & { to?: string },
): Promise<number> {
  const answer = await (await clientFor(options)).switchService(service, options.to);
  if (options.json) printJson(answer);
  else print(renderSwitch(answer));
  return EXIT_DONE;
}

/** `holdfast restart SERVICE`. */
export async function restartService(service: string, options: AskOptions): Promise<number> {
  const answer = await (await clientFor(options)).restartService(service);
  if (options.json) printJson(answer);
  else print(renderRestart(answer));
  return EXIT_DONE;
}

async function clientFor(options: AskOptions): Promise<ControlClient> {
  const { config, control } = options;
  if (config !== undefined && control !== undefined) {
    throw new UsageError("Cannot use both -c and --control: allowed is one of them");
  }
  if (control !== undefined) return new ControlClient(control);
  if (config !== undefined) return new ControlClient((await loadConfig(config)).node.control);
  return new ControlClient(onlySocketIn(SOCKET_DIRECTORY));
}

/**
 * The control socket in a directory that holds exactly one.
 *
 * @throws {UsageError} When it holds none or several.
 */
export function onlySocketIn(directory: string): string {
  const paths = socketsIn(directory);
  if (paths.length === 1) return paths[0];
  const found = paths.length === 0 ? "no daemon has a socket" : "several daemons have a socket";
  const list = paths.length === 0 ? "" : `: ${paths.join(", ")}`;
  throw new UsageError(
    `Cannot tell which daemon is meant, ${found} in ${directory}${list}; use -c FILE or --control PATH`,
  );
}

function socketsIn(directory: string): string[] {
  try {
    return [...Deno.readDirSync(directory)]
      .map(({ name }) => `${directory}/${name}`)
      .filter((path) => path.endsWith(".sock") && Deno.statSync(path).isSocket)
      .sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}
