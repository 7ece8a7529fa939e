/**
 * control.ts - the Unix socket through which a running daemon is asked
 *
 * Theory of operation
 * HTTP over a Unix socket that only its owner can open (mode 0600). Whoever asks must also be root or
 * the daemon's user by the kernel's word (SO_PEERCRED), so a mode that somebody has changed opens nothing.
 * node:http reads and writes the messages; the connections are of unix_socket.ts, as neither Deno.serve nor
 * node:net can be used there. The socket is taken before anything else is touched on the host, so a second
 * daemon of the same configuration stops there.
 *
 *   method path            answer
 *   GET    /status         NodeStatus
 *   GET    /connections    ConnectionInfo[]
 *   POST   /switch         { service, to? } -> SwitchResult
 *   POST   /restart        { service } -> RestartResult
 *   GET    /healthz        200 { "ok": true } while the data plane answers, else 503
 *   GET    /metrics        Prometheus text format 0.0.4
 *
 * A failure is { "error": text } with a status of its own: 400 a request that makes no sense, 403 a
 * stranger, 404 an unknown path or service, 409 what the daemon cannot do now, 503 it is starting or its data plane is
 * gone. A socket file that nobody listens on, left by a crash, is replaced; a live one is not.
 *
 * Limits: BODY_LENGTH_MAX octets of a request's body; CONNECTIONS_MAX connections; the client gives up after REQUEST_TIMEOUT_MS.
 * Sources: unix(7), RFC 9110, Prometheus exposition formats.
 */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { dirname } from "node:path";
import type { Duplex } from "node:stream";
import { type UnixConnection, UnixListener } from "./io/unix_socket.ts";
import type {
  ConnectionInfo,
  DaemonApi,
  NodeStatus,
  RestartResult,
  SwitchResult,
} from "./status.ts";

/** Octets of the longest body of a request. */
export const BODY_LENGTH_MAX = 4096;
/** Connections at a time; the others wait until one of these ends. */
const CONNECTIONS_MAX = 32;
/** How long a client waits for an answer, milliseconds; longer than a switch may take. */
export const REQUEST_TIMEOUT_MS = 10_000;
/** The same for a restart: as long as the daemon waits for the new server, and some. */
const RESTART_TIMEOUT_MS = 45_000;
/** How long open requests may take when the server is closed, milliseconds. */
const CLOSE_TIMEOUT_MS = 1000;
const MODE_OWNER_ONLY = 0o600;

/** A control socket that is listened on. */
export interface ControlServer {
  /** Lets requests through to a daemon; before that they are answered with 503. */
  attach(api: DaemonApi): void;
  /** Stops listening and removes the socket. */
  close(): Promise<void>;
}

/**
 * Takes a control socket and answers on it.
 *
 * @param path Where; its directory is made if missing.
 * @throws {Error} When a daemon listens there, when something else is in the way, or when the
 * directory cannot be written.
 */
export async function startControl(path: string): Promise<ControlServer> {
  await Deno.mkdir(dirname(path), { recursive: true });
  await clearTheWay(path);
  let api: DaemonApi | null = null;
  const server = createServer((request, response) => {
    reply(request, response, () => api).catch(() => response.destroy());
  });
  // The file is made with this mode: there is no moment at which others could connect.
  const listener = new UnixListener(path, MODE_OWNER_ONLY);
  const connections = new Map<UnixConnection, Promise<void>>();
  const serving = serve(listener, connections, (connection) => {
    server.emit("connection", connection);
  });
  return {
    attach(daemon: DaemonApi): void {
      api = daemon;
    },
    async close(): Promise<void> {
      listener.close();
      server.closeIdleConnections();
      const closed = Promise.all(connections.values());
      const timer = setTimeout(() => {
        for (const connection of connections.keys()) connection.destroy();
      }, CLOSE_TIMEOUT_MS);
      await closed;
      clearTimeout(timer);
      await serving;
    },
  };
}

/** Hands connections to `take`, CONNECTIONS_MAX at a time with when they are closed, until the listener is. */
async function serve(
  listener: UnixListener,
  connections: Map<UnixConnection, Promise<void>>,
  take: (connection: UnixConnection) => void,
): Promise<void> {
  for (;;) {
    if (connections.size >= CONNECTIONS_MAX) await Promise.race(connections.values());
    const connection = await listener.accept();
    if (connection === null) return;
    const closed = new Promise<void>((resolve) => connection.once("close", () => resolve()));
    connections.set(connection, closed.then(() => void connections.delete(connection)));
    take(connection);
  }
}

/** Answers one request. */
async function reply(
  request: IncomingMessage,
  response: ServerResponse,
  api: () => DaemonApi | null,
): Promise<void> {
  const why = whyStranger(request.socket as Duplex as UnixConnection);
  let result: Response;
  try {
    result = why === null ? await answer(request, api()) : failure(403, why);
  } catch (error) {
    result = failure(500, `${error}`);
  }
  const body = await result.text();
  response.writeHead(result.status, Object.fromEntries(result.headers));
  response.end(body);
}

/**
 * Why whoever is at the other end may not ask; null for root and for the user who runs the daemon. The file's
 * mode says the same to the kernel; this holds also when somebody has changed the mode.
 */
function whyStranger({ peer: { uid } }: UnixConnection): string | null {
  if (uid === 0 || uid === Deno.uid()) return null;
  return `Cannot answer user ${uid}: allowed are root and user ${Deno.uid()}, who runs the daemon`;
}

/** Removes the socket of a dead daemon; anything else stays and is an error. */
async function clearTheWay(path: string): Promise<void> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.lstat(path);
  } catch (error) {
    return ignoreNotFound(error);
  }
  if (!info.isSocket) {
    throw new Error(`Cannot listen on ${path}: a file that is no socket is in the way; remove it`);
  }
  if (await isListening(path)) {
    throw new Error(`Cannot listen on ${path}: a daemon is listening there; stop it first`);
  }
  await Deno.remove(path);
}

/**
 * Whether somebody listens on a Unix socket.
 *
 * @throws {Error} When that cannot be found out, for lack of permission for instance.
 */
export async function isListening(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    const isGone = error instanceof Deno.errors.NotFound;
    if (isGone || error instanceof Deno.errors.ConnectionRefused) return false;
    throw error;
  }
}

function ignoreNotFound(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

/** A request that cannot be fulfilled. */
class RequestError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const ROUTES: Record<string, (api: DaemonApi, request: IncomingMessage) => Promise<Response>> = {
  "GET /status": async (api) => Response.json(await api.status()),
  "GET /connections": async (api) => Response.json(await api.connections()),
  "GET /healthz": async (api) => {
    await api.status();
    return Response.json({ ok: true });
  },
  "GET /metrics": async (api) =>
    new Response(renderMetrics(await api.status()), {
      headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" },
    }),
  "POST /switch": switchService,
  "POST /restart": restartService,
};

async function answer(request: IncomingMessage, api: DaemonApi | null): Promise<Response> {
  const { pathname } = new URL(request.url ?? "/", "http://localhost");
  const name = `${request.method} ${pathname}`;
  if (!Object.hasOwn(ROUTES, name)) {
    return failure(404, `Cannot ${name}: allowed are ${Object.keys(ROUTES).join(", ")}`);
  }
  if (api === null) return failure(503, "The daemon is starting; try again in a moment");
  try {
    return await ROUTES[name](api, request);
  } catch (error) {
    const status = error instanceof RequestError ? error.status : 503;
    return failure(status, (error as Error).message);
  }
}

async function switchService(api: DaemonApi, request: IncomingMessage): Promise<Response> {
  const { service, to } = await readOrder(request, "switch");
  await mustKnow(api, service, "switch");
  return await carryOut(() => api.switchService(service, to));
}

async function restartService(api: DaemonApi, request: IncomingMessage): Promise<Response> {
  const { service } = await readOrder(request, "restart");
  await mustKnow(api, service, "restart");
  return await carryOut(() => api.restartService(service));
}

/** Something that may be asked of a service. */
type Order = "switch" | "restart";

async function mustKnow(api: DaemonApi, service: string, order: Order): Promise<void> {
  const known = (await api.status()).services.map(({ name }) => name);
  if (known.includes(service)) return;
  const allowed = known.join(", ") || "none";
  throw new RequestError(404, `Cannot ${order} "${service}": services here are ${allowed}`);
}

async function carryOut(action: () => Promise<unknown>): Promise<Response> {
  try {
    return Response.json(await action());
  } catch (error) {
    throw new RequestError(409, (error as Error).message);
  }
}

async function readOrder(
  request: IncomingMessage,
  order: Order,
): Promise<{ service: string; to?: string }> {
  const allowed = order === "switch"
    ? '{ "service": NAME } or { "service": NAME, "to": NODE }'
    : '{ "service": NAME }';
  const text = await readBody(request);
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new RequestError(400, `Cannot read the body as JSON: allowed is ${allowed}`);
  }
  const { service, to } = (body ?? {}) as { service?: unknown; to?: unknown };
  if (typeof service !== "string" || (to !== undefined && typeof to !== "string")) {
    throw new RequestError(400, `Cannot ${order} ${text}: allowed is ${allowed}`);
  }
  return { service, to };
}

/** The body as text; refuses one that is too long before it is all read. */
async function readBody(request: IncomingMessage): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  for await (const octets of request) {
    length += octets.length;
    if (length > BODY_LENGTH_MAX) {
      throw new RequestError(400, `Cannot read a body of more than ${BODY_LENGTH_MAX} octets`);
    }
    text += decoder.decode(octets, { stream: true });
  }
  return text;
}

function failure(status: number, error: string): Response {
  return Response.json({ error }, { status });
}

/** A request that a daemon did not fulfil. */
export class ControlError extends Error {
  /** Always "ControlError". */
  override readonly name = "ControlError";
  /** HTTP status; 0 when nobody answered. */
  readonly status: number;

  /** Carries the daemon's own words, or why there are none. */
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Asks the daemon that listens on a control socket. */
export class ControlClient {
  readonly #path: string;
  readonly #timeoutMs: number;

  /** Notes the socket; nothing is opened before the first question. */
  constructor(path: string, options: { timeoutMs?: number } = {}) {
    this.#path = path;
    this.#timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS;
  }

  /**
   * The state of the node.
   *
   * @throws {ControlError} When no daemon listens, none answers in time, or it cannot.
   */
  status(): Promise<NodeStatus> {
    return this.#request("GET", "/status");
  }

  /**
   * The connections of all services.
   *
   * @throws {ControlError} As {@linkcode status}.
   */
  connections(): Promise<ConnectionInfo[]> {
    return this.#request("GET", "/connections");
  }

  /**
   * Moves a service to another node; to the standby when `to` is not given.
   *
   * @throws {ControlError} As {@linkcode status}; 404 for an unknown service, 409 when it cannot be moved.
   */
  switchService(service: string, to?: string): Promise<SwitchResult> {
    return this.#request("POST", "/switch", { body: JSON.stringify({ service, to }) });
  }

  /**
   * Restarts a service's server behind its clients' backs.
   *
   * @throws {ControlError} As {@linkcode status}; 404 for an unknown service, 409 when it cannot be done.
   */
  restartService(service: string): Promise<RestartResult> {
    const timeoutMs = Math.max(this.#timeoutMs, RESTART_TIMEOUT_MS);
    return this.#request("POST", "/restart", { body: JSON.stringify({ service }), timeoutMs });
  }

  async #request<T>(
    method: string,
    path: string,
    { body, timeoutMs = this.#timeoutMs }: { body?: string; timeoutMs?: number } = {},
  ): Promise<T> {
    const client = Deno.createHttpClient({ proxy: { transport: "unix", path: this.#path } });
    let response: Response;
    let text: string;
    try {
      // A number, not a name: the proxy ignores it, but a name is looked up in DNS first (5 s without).
      response = await fetch(`http://127.0.0.1${path}`, {
        client,
        method,
        body,
        signal: AbortSignal.timeout(timeoutMs),
      });
      text = await response.text();
    } catch (error) {
      throw new ControlError(0, await this.#explain(error as Error, timeoutMs));
    } finally {
      client.close();
    }
    if (response.ok) return JSON.parse(text);
    throw new ControlError(response.status, errorIn(text) ?? `the daemon answered ${text}`);
  }

  /** Why there was no answer, and what to do about it. */
  async #explain(error: Error, timeoutMs: number): Promise<string> {
    const place = `Cannot ask the daemon at ${this.#path}`;
    if (error.name === "TimeoutError") {
      return `${place}: it did not answer within ${timeoutMs} ms`;
    }
    try {
      if (!await isListening(this.#path)) {
        return `${place}: none is running there; start it with "holdfast up -c FILE"`;
      }
    } catch (reason) {
      if (reason instanceof Deno.errors.PermissionDenied) {
        return `${place}: only the user who started it may ask; run as that user, usually root`;
      }
    }
    return `${place}: ${error.message}${
      error.cause instanceof Error ? `: ${error.cause.message}` : ""
    }`;
  }
}

/** The daemon's own words in the body of a failure. */
function errorIn(text: string): string | undefined {
  try {
    const { error } = JSON.parse(text);
    return typeof error === "string" ? error : undefined;
  } catch {
    return undefined;
  }
}

const ROLES = ["joining", "standby", "primary", "retired"];
const APP_STATES = ["starting", "running", "exited", "stopped", "external"];

/** The state of a node in Prometheus' text format; ends with a line feed. */
export function renderMetrics(status: NodeStatus): string {
  const { services, peers } = status;
  const links = peers.flatMap(({ name, links }) => links.map((link) => ({ peer: name, ...link })));
  const families = [
    family("holdfast_info", "gauge", "The node and the version it runs.", [
      [{ node: status.node, version: status.version }, 1],
    ]),
    family(
      "holdfast_service_role",
      "gauge",
      "1 for the role that this node has for a service.",
      services.flatMap(({ name, role }) =>
        ROLES.map((each): Sample => [{ service: name, role: each }, each === role ? 1 : 0])
      ),
    ),
    family(
      "holdfast_service_epoch",
      "gauge",
      "Term of authority of a service.",
      services.map(({ name, epoch }) => [{ service: name }, epoch]),
    ),
    family(
      "holdfast_service_protected",
      "gauge",
      "1 when a standby could take over now.",
      services.map((service) => [{ service: service.name }, service.protected ? 1 : 0]),
    ),
    family(
      "holdfast_service_copies",
      "gauge",
      "Primary: other replicas that have all connections and could go on alone.",
      services.map((service) => [{ service: service.name }, service.copies.held]),
    ),
    family(
      "holdfast_connections",
      "gauge",
      "Live connections by protection.",
      services.flatMap(({ name, connections: { hot, log, unprotected } }) =>
        Object.entries({ hot, log, unprotected })
          .map(([protection, number]): Sample => [{ service: name, protection }, number])
      ),
    ),
    family(
      "holdfast_server_state",
      "gauge",
      "1 for the state of the server behind a service.",
      services.flatMap(({ name, app }) =>
        APP_STATES.map((
          each,
        ): Sample => [{ service: name, state: each }, each === app.state ? 1 : 0])
      ),
    ),
    family(
      "holdfast_server_restarts_total",
      "counter",
      "How often the server behind a service was started again.",
      services.map(({ name, app }) => [{ service: name }, app.restarts ?? 0]),
    ),
    family(
      "holdfast_events_total",
      "counter",
      "What the packet core has counted, by event.",
      services.flatMap(({ name, counters }) =>
        Object.entries(counters).map((
          [event, number],
        ): Sample => [{ service: name, event }, number])
      ),
    ),
    family(
      "holdfast_last_takeover_seconds",
      "gauge",
      "How long each phase of the last takeover took.",
      services.flatMap(({ name, lastTakeover }): Sample[] =>
        lastTakeover === null ? [] : [
          [{ service: name, phase: "detect" }, lastTakeover.detectMs / 1000],
          [{ service: name, phase: "takeover" }, lastTakeover.takeoverMs / 1000],
        ]
      ),
    ),
    family(
      "holdfast_link_up",
      "gauge",
      "1 while the peer is heard on a link.",
      links.map(({ peer, local, remote, up }) => [{ peer, local, remote }, up ? 1 : 0]),
    ),
    family(
      "holdfast_link_round_trip_seconds",
      "gauge",
      "Round trip of a link.",
      links.flatMap(({ peer, local, remote, rttUs }): Sample[] =>
        rttUs === null ? [] : [[{ peer, local, remote }, rttUs / 1e6]]
      ),
    ),
    family(
      "holdfast_control_up",
      "gauge",
      "1 while the control connection to a peer stands.",
      peers.flatMap(({ name, control }): Sample[] =>
        control === null ? [] : [[{ peer: name }, control === "up" ? 1 : 0]]
      ),
    ),
    family(
      "holdfast_refused_total",
      "counter",
      "What came over the links and was not the peer's own, by kind.",
      peers.flatMap(({ name, refused }) =>
        Object.entries(refused).map(([kind, number]): Sample => [{ peer: name, kind }, number])
      ),
    ),
  ];
  return families.join("");
}

/** Labels and value of one line. */
type Sample = [labels: Record<string, string>, value: number];

/** One metric with its samples; nothing when it has none. */
function family(name: string, type: string, help: string, samples: Sample[]): string {
  if (samples.length === 0) return "";
  const lines = samples.map(([labels, value]) => {
    const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(text)}"`);
    return `${name}{${pairs.join(",")}} ${value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

function escapeLabel(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
