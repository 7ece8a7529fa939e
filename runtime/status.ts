/**
 * status.ts - what a node says about itself, for programs and for people
 *
 * Theory of operation
 * The interfaces are the JSON that `holdfast status --json` and `connections --json` print and that the
 * control socket serves; their keys are a promise to other programs (more may be added). The functions
 * turn the same data into text. {@linkcode DaemonApi} is what a running daemon can be asked.
 *
 * Text that came from another program (names, reasons) is stripped of control characters, so that
 * nothing a peer says can move a terminal's cursor.
 */

import type { Arbitration } from "./protocol/replica.ts";

export type { Arbitration } from "./protocol/replica.ts";

/** Judgements of a service that are printed. */
const JUDGEMENTS_SHOWN = 8;

/** What a replica does for one service. */
export type ServiceRole = "joining" | "standby" | "primary" | "retired";

/** How one connection is protected. */
export type Protection = "hot" | "log" | "unprotected";

/** A running daemon, as commands see it. Every promise is settled within seconds. */
export interface DaemonApi {
  /** The state of this node. */
  status(): Promise<NodeStatus>;
  /** The connections of all services of this node. */
  connections(): Promise<ConnectionInfo[]>;
  /**
   * Moves a service with its live connections to another node.
   *
   * @param service Name of the service.
   * @param to Name of the node; the standby if not given.
   * @throws {Error} When it is not primary here, or nobody is ready to take it.
   */
  switchService(service: string, to?: string): Promise<SwitchResult>;
  /**
   * Where whole logs are kept: ends the server of a service, starts it again and brings every connection to it.
   *
   * @throws {Error} When no whole logs are kept, it is not primary here, not started by us, or does not come back.
   */
  restartService(service: string): Promise<RestartResult>;
  /**
   * Ends all services on this node and undoes what was changed on the host.
   *
   * @param options `handOver`: first let the standby take what it can.
   */
  stop(options: { handOver: boolean }): Promise<void>;
  /** Resolves with the reason when the data plane ends without being told to. */
  readonly ended?: Promise<string>;
  /** Passes that the data plane has made; it hangs when this stands. */
  readonly passes?: number;
}

/** A planned switch that was made. */
export interface SwitchResult {
  /** Name of the service. */
  service: string;
  /** Node that was primary. */
  from: string;
  /** Node that is primary now. */
  to: string;
  /** The new epoch. */
  epoch: number;
  /** Connections that moved. */
  connections: number;
  /** Longest time in which nobody spoke for the service, milliseconds. */
  gapMs: number;
}

/** State of a node. */
export interface NodeStatus {
  /** Name of the node. */
  node: string;
  /** Version of the program. */
  version: string;
  /** Services that the node has a share in. */
  services: ServiceStatus[];
  /** The other nodes. */
  peers: PeerStatus[];
  /** Who decides when the nodes lose sight of each other; null for nobody. */
  arbiter: ArbiterStatus | null;
}

/** State of the arbiter, as this node sees it. */
export interface ArbiterStatus {
  /** What keeps the register. */
  kind: "witness" | "etcd" | "fence";
  /** Where it is, or the command. */
  where: string;
  /** Whether it has answered the last question; null before the first. */
  reachable: boolean | null;
}

/** State of one service on one node. */
export interface ServiceStatus {
  /** Name of the service. */
  name: string;
  /** What clients dial. */
  address: string;
  /** TCP ports. */
  ports: number[];
  /** How connections are protected. */
  mode: "hot" | "log";
  /** What this node does for it. */
  role: ServiceRole;
  /** Number of the term of authority. */
  epoch: number;
  /** Whether a standby could take over now. */
  protected: boolean;
  /** The server behind it. */
  app: AppStatus;
  /** How many connections there are. */
  connections: ConnectionCounts;
  /** The last time this node took over; null when it never did. */
  lastTakeover: TakeoverStatus | null;
  /** What has been counted since the start, by name. */
  counters: Record<string, number>;
  /** What the arbiter was asked, and what it said last. */
  arbitration: Arbitration;
  /** Whether this node may send for the service now. */
  speaks: boolean;
  /** What was judged lately and on what evidence, oldest first. */
  judgements: Judgement[];
  /** What an operator should know. */
  warnings: string[];
  /** Where whole logs are kept: how far its server is; else null. */
  recovery: RecoveryStatus | null;
  /** Log mode: its log on disk; null for in memory. */
  store: DiskLogStatus | null;
  /** Who else holds the connections. */
  copies: CopiesStatus;
}

/** Which other replicas hold the connections of a service. */
export interface CopiesStatus {
  /** How many are to: `commit_copies`. */
  wanted: number;
  /** Primary: how many of them have all and could go on alone. */
  held: number;
  /** Primary: who follows it and has been told all, the nearest first. */
  chain: string[];
}

/** A log on disk. */
export interface DiskLogStatus {
  /** "full": the disk is, and clients wait; "lost": it takes nothing, see the connections' reasons. */
  state: "storing" | "full" | "lost";
  /** Files it has. */
  segments: number;
  /** Octets that are not written yet. */
  waitingOctets: number;
  /**
   * The term whose connections it holds, all of them: a daemon that starts goes on from them if no newer
   * term has begun. Null while it lacks some.
   */
  epoch: number | null;
}

/** Log mode: a server is there, or is being brought to where the clients are. */
export interface RecoveryStatus {
  /** No server listens yet; it is played the logs; every connection is served. */
  state: "waiting" | "replaying" | "live";
  /** Why the connections left their last server: "start", "app-exited", "app-died", "app-hangs", "restart". */
  reason: string;
  /** Since they left it, milliseconds; null when they are served. */
  forMs: number | null;
  /** Connections that wait for their server. */
  behind: number;
  /** The last recovery that had connections; null before the first. */
  last: RecoveryResult | null;
}

/** A recovery that is over. */
export interface RecoveryResult {
  /** As above. */
  reason: string;
  /** Connections that were brought to the new server. */
  connections: number;
  /** From the end of the old server to the last connection's return, milliseconds. */
  tookMs: number;
  /** Of that, until the new server listened, milliseconds. */
  waitedMs: number;
}

/** A deliberate restart of a server, which its clients did not notice. */
export interface RestartResult {
  /** Name of the service. */
  service: string;
  /** Connections that were brought to the new server. */
  connections: number;
  /** From leaving the old server to the last connection's return, milliseconds. */
  tookMs: number;
}

/** Something that was judged. */
export interface Judgement {
  /** When; ISO 8601. */
  at: string;
  /** What. */
  judgement: string;
  /** What it rests on. */
  evidence: Record<string, string | number | boolean | null>;
}

/** State of a server. */
export interface AppStatus {
  /** "external" when Holdfast does not start it. */
  state: "starting" | "running" | "exited" | "stopped" | "external";
  /** Process id in the host's view; null when there is none. */
  pid: number | null;
  /** How often it was started again. */
  restarts?: number;
  /** How it ended last: "status 1" or "SIGSEGV"; null when it never did. */
  lastExit?: string | null;
}

/** Connections of a service by protection. */
export interface ConnectionCounts {
  /** All of them. */
  total: number;
  /** Followed by a standby's server. */
  hot: number;
  /** What its client has said is logged: a server can be brought to where it is. */
  log: number;
  /** Would not survive. */
  unprotected: number;
}

/** A takeover. */
export interface TakeoverStatus {
  /** Why: "start", "peer-silent", "switch". */
  reason: string;
  /** From the peer's last sign of life to the suspicion, milliseconds. */
  detectMs: number;
  /** From the suspicion to the first segment, milliseconds. */
  takeoverMs: number;
  /** Connections taken over. */
  connections: number;
  /** When it was decided: wall clock, RFC 3339. */
  at: string;
  /** When each step was done. */
  timeline: TakeoverTimeline;
}

/** The steps of a takeover: wall clock of this node, milliseconds since 1970, with a fraction. */
export interface TakeoverTimeline {
  /** The old primary was heard last; null when it never was. */
  lastHeartbeatMs: number | null;
  /** It was suspected, or handed over. */
  suspectMs: number;
  /** Every connection was ready to speak. */
  adoptedMs: number;
  /** The address was claimed and announced. */
  claimedMs: number;
  /** The first segments had been sent. */
  firstByteMs: number;
}

/** State of another node. */
export interface PeerStatus {
  /** Its name. */
  name: string;
  /** The ways to it. */
  links: LinkStatus[];
  /** The control connection; null when the configuration is `insecure` and there is none. */
  control: "up" | "down" | null;
  /** What came over the links and was not the peer's own, unaltered and new, by kind. */
  refused: Record<string, number>;
}

/** State of one link. */
export interface LinkStatus {
  /** Own end, "10.0.0.1:7946". */
  local: string;
  /** The peer's end. */
  remote: string;
  /** Whether it carries in both directions. */
  up: boolean;
  /** Round trip, microseconds; null when not measured. */
  rttUs: number | null;
}

/** One client's connection. */
export interface ConnectionInfo {
  /** Name of the service. */
  service: string;
  /** The client's end, "10.0.0.2:51234". */
  client: string;
  /** The service's port. */
  port: number;
  /** How far it has come. */
  state: "handshake" | "established" | "closing" | "closed";
  /** How it is protected. */
  protection: Protection;
  /** Why it is not protected; null when it is. */
  reason: string | null;
  /** What else there is to know of its protection; null for nothing. */
  note: string | null;
  /** Octets of payload from the client. */
  bytesIn: number;
  /** Octets of payload to the client. */
  bytesOut: number;
  /** Since it was opened, milliseconds. */
  ageMs: number;
  /** Since its last segment, milliseconds. */
  idleMs: number;
  /** Sequence numbers and windows of the record, for diagnosis. */
  numbers?: Record<string, number>;
}

/** The text of `holdfast status`; ends with a line feed. */
export function renderStatus(status: NodeStatus): string {
  const blocks = [`node ${status.node}, version ${status.version}`];
  blocks.push(
    status.services.length === 0 ? "no services" : table(
      ["SERVICE", "ADDRESS", "PORTS", "ROLE", "EPOCH", "PROTECTED", "SERVER", "CONNECTIONS"],
      status.services.map((service) => [
        service.name,
        service.address,
        service.ports.join(","),
        service.role,
        String(service.epoch),
        renderProtected(service),
        renderApp(service.app),
        renderCounts(service.connections),
      ]),
    ),
  );
  const notes = [...status.services.flatMap(notesOf), ...status.peers.flatMap(notesOfPeer)];
  if (notes.length > 0) blocks.push(notes.join("\n"));
  const links = status.peers.flatMap(({ name, links }) =>
    links.map((link) => [
      name,
      `${link.local} -> ${link.remote}`,
      link.up ? "up" : "down",
      link.rttUs === null ? "-" : `${Math.round(link.rttUs)} us`,
    ])
  );
  blocks.push(
    links.length === 0
      ? "no peers: nobody could take over"
      : table(["PEER", "LINK", "STATE", "ROUND TRIP"], links),
  );
  blocks.push(renderArbiter(status));
  const judgements = status.services.flatMap(({ name, judgements }) =>
    judgements.slice(-JUDGEMENTS_SHOWN).map(({ at, judgement, evidence }) => [
      at,
      name,
      judgement,
      Object.entries(evidence).map(([key, value]) => `${key}=${value}`).join(" "),
    ])
  );
  if (judgements.length > 0) {
    blocks.push(table(["JUDGED", "SERVICE", "WHAT", "EVIDENCE"], judgements));
  }
  return clean(blocks.join("\n\n")) + "\n";
}

/** Whether somebody could go on; and how many could, where that may be more than one. */
function renderProtected(
  { copies: { held, chain }, protected: isProtected, role }: ServiceStatus,
): string {
  if (!isProtected) return "no";
  return role === "primary" && chain.length > 1 ? `yes, ${held} of ${chain.length}` : "yes";
}

function renderArbiter({ arbiter, services }: NodeStatus): string {
  if (arbiter === null) return "no arbiter: hosts that lose each other both go on";
  const { kind, where, reachable } = arbiter;
  const state = reachable === null ? "not asked yet" : reachable ? "reachable" : "NOT REACHABLE";
  const lines = [`arbiter ${kind} at ${where}: ${state}`];
  for (const { name, role, speaks, arbitration: { asking, last } } of services) {
    if (role === "primary" && !speaks) {
      lines.push(`${name}: silent until the standby is heard or the arbiter answers`);
    }
    if (asking !== null) lines.push(`${name}: asking for ${asking}`);
    if (last === null) continue;
    const { purpose, outcome, detail, tookMs } = last;
    lines.push(`${name}: ${purpose} ${outcome} (${detail}) in ${tookMs} ms`);
  }
  return lines.join("\n");
}

/** The text of `holdfast connections`; ends with a line feed. */
export function renderConnections(connections: readonly ConnectionInfo[]): string {
  if (connections.length === 0) return "no connections\n";
  const counts = { total: connections.length, hot: 0, log: 0, unprotected: 0 };
  for (const { protection } of connections) counts[protection]++;
  const rows = connections.map((connection) => [
    connection.service,
    connection.client,
    String(connection.port),
    connection.state,
    connection.protection,
    formatOctets(connection.bytesIn),
    formatOctets(connection.bytesOut),
    formatMs(connection.ageMs),
    formatMs(connection.idleMs),
    connection.reason ?? connection.note ?? "",
  ]);
  const head = ["SERVICE", "CLIENT", "PORT", "STATE", "PROTECTION", "IN", "OUT", "AGE", "IDLE"];
  return clean(`${table([...head, "REASON"], rows)}\n\n${renderCounts(counts)}`) + "\n";
}

/** The text of `holdfast switch`; ends with a line feed. */
export function renderSwitch(result: SwitchResult): string {
  const { service, from, to, epoch, connections, gapMs } = result;
  return clean(
    `${service}: ${from} -> ${to}, epoch ${epoch}, ${count(connections, "connection")} moved, ` +
      `nobody spoke for ${formatMs(gapMs)}`,
  ) + "\n";
}

/** The text of `holdfast restart`; ends with a line feed. */
export function renderRestart({ service, connections, tookMs }: RestartResult): string {
  const moved = `${count(connections, "connection")} brought to the new server`;
  return clean(`${service}: restarted, ${moved} in ${formatMs(tookMs)}`) + "\n";
}

/** What there is to say about a service beside its line. */
function notesOf(service: ServiceStatus): string[] {
  const notes = service.warnings.map((warning) => `${service.name}: warning: ${warning}`);
  const { app, lastTakeover, counters, recovery, role, store } = service;
  if (counters.diverged > 0) {
    const connections = count(counters.diverged, "connection");
    notes.push(`${service.name}: ${connections} so far whose servers answered differently`);
  }
  if (recovery !== null) notes.push(...notesOfRecovery(service.name, recovery, role));
  if (store !== null) {
    const holds = store.epoch === null
      ? "lacks connections that live"
      : `holds all connections of epoch ${store.epoch}`;
    notes.push(`${service.name}: log on disk ${holds}`);
  }
  if (app.lastExit !== undefined && app.lastExit !== null) {
    const restarts = count(app.restarts ?? 0, "restart");
    notes.push(`${service.name}: server last ended with ${app.lastExit}, ${restarts}`);
  }
  if (lastTakeover !== null && lastTakeover.reason !== "start") {
    const { reason, connections, detectMs, takeoverMs, at, timeline } = lastTakeover;
    notes.push(
      `${service.name}: took over ${count(connections, "connection")} at ${at} (${reason}), ` +
        `detected in ${formatMs(detectMs)}, took ${formatMs(takeoverMs)}`,
      `${service.name}: ${renderTimeline(timeline)}`,
    );
  }
  return notes;
}

function notesOfRecovery(
  name: string,
  { state, forMs, behind, last }: RecoveryStatus,
  role: ServiceRole,
): string[] {
  const notes: string[] = [];
  if (forMs !== null && behind > 0) {
    const waiting = role === "primary" ? "held" : "kept as logs";
    const doing = state === "waiting" ? `${waiting} until a server listens` : "being replayed";
    notes.push(`${name}: ${count(behind, "connection")} ${doing}, for ${formatMs(forMs)} so far`);
  }
  if (last !== null) {
    const { connections, reason, tookMs, waitedMs } = last;
    notes.push(
      `${name}: ${count(connections, "connection")} brought to a new server (${reason}) in ` +
        `${formatMs(tookMs)}, of which ${formatMs(waitedMs)} until it listened`,
    );
  }
  return notes;
}

/** Each step's distance from the last heartbeat that was heard. */
function renderTimeline(timeline: TakeoverTimeline): string {
  const { lastHeartbeatMs, suspectMs, adoptedMs, claimedMs, firstByteMs } = timeline;
  const steps = { decided: suspectMs, adopted: adoptedMs, claimed: claimedMs };
  const startMs = lastHeartbeatMs ?? suspectMs;
  return Object.entries({ ...steps, "first octets sent": firstByteMs })
    .map(([step, ms]) => `${step} +${formatMs(Math.max(0, ms - startMs))}`)
    .join(", ") + (lastHeartbeatMs === null ? "" : " after the last heartbeat");
}

/** What there is to say about a peer beside its links. */
function notesOfPeer({ name, control, refused }: PeerStatus): string[] {
  const notes: string[] = [];
  if (control === "down") {
    notes.push(`${name}: no control connection: keys are not renewed, all else goes on`);
  }
  const kinds = Object.entries(refused).filter(([, number]) => number > 0);
  if (kinds.length > 0) {
    const list = kinds.map(([kind, number]) => count(number, kind)).join(", ");
    notes.push(`${name}: refused what was not its own: ${list}`);
  }
  return notes;
}

function renderApp(app: AppStatus): string {
  return app.pid === null ? app.state : `${app.state} (${app.pid})`;
}

function renderCounts({ total, hot, log, unprotected }: ConnectionCounts): string {
  const parts = Object.entries({ hot, log, unprotected }).filter(([, number]) => number > 0);
  const detail = parts.map(([name, number]) => `${number} ${name}`).join(", ");
  return detail === "" ? String(total) : `${total} (${detail})`;
}

/** Columns of equal width, two blanks apart; the last one is not padded. */
function table(head: string[], rows: string[][]): string {
  const lines = [head, ...rows];
  const widths = head.map((_, column) =>
    lines.reduce((width, line) => Math.max(width, line[column].length), 0)
  );
  return lines
    .map((line) => line.map((cell, column) => cell.padEnd(widths[column])).join("  ").trimEnd())
    .join("\n");
}

const OCTET_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/**
 * Octets for people: "17 B", "1.5 MiB".
 *
 * @param octets Not negative.
 */
export function formatOctets(octets: number): string {
  let value = octets;
  let unit = 0;
  while (value >= 1024 && unit < OCTET_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${OCTET_UNITS[unit]}`;
}

/**
 * A span of time for people: "3.1 ms", "12 s", "2 h 5 min".
 *
 * @param ms Milliseconds, not negative.
 */
export function formatMs(ms: number): string {
  if (ms < 100) return `${Number(ms.toFixed(1))} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${Number((ms / 1000).toFixed(1))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Text without control characters other than the line feed. */
function clean(text: string): string {
  return text.replace(/[^\P{Cc}\n]/gu, "?");
}
