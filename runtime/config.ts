/**
 * config.ts - read holdfast.toml, and refuse what is not understood
 *
 * Theory of operation
 * TOML text -> plain values (smol-toml) -> checked values (valibot, with the tables below) -> checks that
 * need more than one value -> {@linkcode Config}, plain data that can be given to a worker. Every problem
 * of a file is found in one go, and each says where it is, what was found and what is allowed. A key that
 * nobody knows is an error, because a mistyped key would otherwise be a setting that silently is not made.
 *
 *     [node]
 *     name = "a"                            this host's name in the cluster
 *     state_dir = "/var/lib/holdfast"       epochs are kept here; must survive a reboot
 *     control = "/run/holdfast/a.sock"      Unix socket for commands; default /run/holdfast/<name>.sock
 *
 *     [[peer]]                              another host; none: the service has no standby. Of several the
 *                                           first that is there is the standby, the others follow it in a chain
 *     name = "b"
 *     links = [ { local = "10.0.0.1:7946", remote = "10.0.0.2:7946" } ]
 *
 *     [cluster]
 *     name = "a+b"                          at the arbiter; default all nodes' names, sorted
 *     insecure = true                       replicate in plain text; or:
 *     tls = { ca = "ca.pem", cert = "a.pem", key = "a.key" }     made by "holdfast keys"
 *                                           also renew = "10min", renew_size = "64GiB": fresh keys so often
 *     heartbeat = "10ms"                    1ms to 10s
 *     detect = 3                            heartbeats missed on every link before the peer is down, 2 to 100
 *     spin = "200us"                         keep polling so long after the last packet; "0us" saves a core
 *     arbiter = { kind = "witness", address = "10.0.0.9:7950" }
 *
 *     [[service]]
 *     name = "web"
 *     address = "10.0.0.100"                what clients dial; belongs to no interface
 *     ports = [80]
 *     interface = "eth0"                    where clients arrive
 *     prefer = "a"                          primary at first start; default the name that sorts first
 *     mode = "hot"                          hot | log: of this host; hosts of one service may differ in it
 *                                           where each hot one has a table log, too
 *     commit = "strict"                     strict | ack
 *     run = ["nginx", "-g", "daemon off;"]  default: start the server yourself in the namespace
 *     user = "www-data"                     default: the daemon's
 *     health = { command = ["curl", "-fsS", "http://10.0.0.100/health"] }
 *                                           run in the namespace every = "1s", killed at timeout = "2s";
 *                                           failures = 3 in a row: the server hangs. Default: never asked
 *     commit_copies = 1                     how many other replicas must hold what leaves; of several [[peer]]
 *     determinism = "none"                  none | faketime: run sees a clock that stands still at
 *     clock_base = "2026-01-01T00:00:00Z"     clock_base, and the same random numbers everywhere
 *     netns = "hf-web"                      default hf-<name>
 *     uplink = true                         let the server reach other hosts by the host's own address
 *     divergence = "reset"                  reset | unprotect | ignore
 *     unprotectable = "pass"                pass | refuse connections like those with TCP MD5
 *     fin_wait = "2s"
 *     lag_bytes = "4MiB"
 *     lag_time = "2s"
 *     log_limit = "8MiB"                    hot: what the standby's server has not read of one connection
 *     rejoin_limit = "64KiB"                hot: what is kept of all that a client says, for a standby that
 *                                           comes later; of whom more was said stays unprotected then
 *     log = { store = "memory", limit = "64MiB", full = "unprotect" }
 *                                           log: all a client may send; then unprotect | hold its client;
 *                                           store = "disk": with commit = "strict"; on two hosts the
 *                                           same at both, and an arbiter that is a register. Beside
 *                                           mode = "hot" (log = {} will do): besides feeding its server
 *                                           the standby keeps all of it, as hosts with mode = "log" do
 *     hint = "none"                         none | http/1.1: what clients and server speak; answers depend on
 *                                           their request alone, so what was answered need not be kept
 *     memory = "256MiB"                     all tables, logs and parked segments of the service
 *     max_connections = 65536               more are passed through unprotected
 *
 * Durations are a number and us, ms, s, min or h ("10ms", "1.5s"); sizes a number and B, KiB, MiB or GiB.
 * File names are relative to the directory of the file they stand in.
 *
 * Limits: CONFIG_LENGTH_MAX octets; the counts in {@linkcode LIMITS}.
 * Sources: TOML 1.0.0; DESIGN section 8.
 */

import { dirname, resolve } from "node:path";
import { parse as parseToml, TomlError } from "smol-toml";
import * as v from "valibot";
import { formatHostPort, parseAddress, parseHostPort } from "./io/address.ts";
import { SERVICES_MAX } from "./protocol/message.ts";
import { PEERS_MAX } from "./protocol/register.ts";

/** Octets of the longest file that is read. */
export const CONFIG_LENGTH_MAX = 1 << 20;
/** How many of each there may be. */
export const LIMITS = {
  peers: PEERS_MAX,
  links: 8,
  services: SERVICES_MAX,
  ports: 64,
  arguments: 1024,
} as const;

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
/** What is kept of one connection where whole logs are, unless the file says otherwise. */
const LOG_LIMIT = "64MiB";
/** A Unix socket's path, sun_path less the closing zero; unix(7). */
const SOCKET_PATH_LENGTH_MAX = 107;
/** Farthest a word may be from a known one to be taken for a slip of the finger. */
const SLIP_DISTANCE_MAX = 2;

/** A checked configuration: plain data with every default filled in. */
export interface Config {
  /** The file it was read from, for messages. */
  file: string;
  /** This host. */
  node: NodeConfig;
  /** The other hosts. */
  peers: PeerConfig[];
  /** What all hosts have in common. */
  cluster: ClusterConfig;
  /** What is kept alive. */
  services: ServiceConfig[];
}

/** Table `node`. */
export interface NodeConfig {
  /** This host's name. */
  name: string;
  /** Directory of what must survive a restart, absolute. */
  stateDir: string;
  /** Path of the control socket, absolute. */
  control: string;
}

/** One of `[[peer]]`. */
export interface PeerConfig {
  /** That host's name. */
  name: string;
  /** The ways to it. */
  links: LinkConfig[];
}

/** One way to a peer; "10.0.0.1:7946" or "[fd00::1]:7946", canonical. */
export interface LinkConfig {
  /** Own end. */
  local: string;
  /** The peer's end. */
  remote: string;
}

/** Table `cluster`. */
export interface ClusterConfig {
  /** Its name at the arbiter. */
  name: string;
  /** Certificates; absolute file names. */
  tls: TlsConfig | null;
  /** Whether plain text between replicas is accepted. */
  insecure: boolean;
  /** Interval of heartbeats, milliseconds. */
  heartbeatMs: number;
  /** Heartbeats that may be missed. */
  detect: number;
  /** Polling without waiting after the last packet, microseconds; 0 for never. */
  spinUs: number;
  /** Who decides when the replicas lose sight of each other. */
  arbiter: ArbiterConfig | null;
}

/** Table `cluster.tls`. */
export interface TlsConfig {
  /** Certificates of authorities, absolute file name. */
  ca: string;
  /** This node's certificate, absolute file name. */
  cert: string;
  /** Its private key, absolute file name. */
  key: string;
  /** How old keys of replication and heartbeats become, milliseconds. */
  renewMs: number;
  /** How much is sealed with one of them, octets. */
  renewOctets: number;
}

/** An arbiter. */
export type ArbiterConfig =
  | { kind: "witness"; address: string }
  | { kind: "etcd"; endpoints: string[] }
  | { kind: "fence"; command: string[]; gateway: string };

/** One of `[[service]]`. */
export interface ServiceConfig {
  /** Its name. */
  name: string;
  /** Service address, canonical. */
  address: string;
  /** TCP ports. */
  ports: number[];
  /** Interface where clients arrive. */
  interface: string;
  /** Node that is primary at first start; null for the one whose name sorts first. */
  prefer: string | null;
  /** Whether the server runs while this node stands by ("hot"), or is started when it takes over ("log"). */
  mode: "hot" | "log";
  /** All that a client says is kept, so that another server can be played it: log mode, or hot with a table `log`. */
  keepsLogs: boolean;
  /** When client-bound segments may leave. */
  commit: "strict" | "ack";
  /** Program and arguments of the server; null when somebody else starts it. */
  run: string[] | null;
  /** User the server runs as; null for the daemon's. */
  user: string | null;
  /** What is asked to learn whether the server works; null for nothing. */
  health: HealthConfig | null;
  /** Time of day that the server sees, seconds since 1970, under libfaketime; null for the true one. */
  clockBaseS: number | null;
  /** Network namespace of the server. */
  netns: string;
  /** Whether the server reaches other hosts. */
  uplink: boolean;
  /** What becomes of a connection whose replicas have answered differently. */
  divergence: "reset" | "unprotect" | "ignore";
  /** What becomes of a connection that cannot be protected. */
  unprotectable: "pass" | "refuse";
  /** How long a FIN or RST of one server waits for the other's, milliseconds. */
  finWaitMs: number;
  /** How many other replicas must hold what the primary lets out. */
  commitCopies: number;
  /** How far one server may lag behind the other, octets. */
  lagBytes: number;
  /** How long one server may lag behind the other, milliseconds. */
  lagTimeMs: number;
  /** Hot mode: input log of one connection, octets. */
  logLimitBytes: number;
  /** Hot mode: what is kept of a client's stream for a standby that comes later, octets; 0 for nothing. */
  rejoinLimitBytes: number;
  /** What is kept of each connection, if `keepsLogs`. */
  log: LogConfig;
  /** What both streams of a connection are, so that what is kept of it can be cut. */
  hint: "none" | "http/1.1";
  /** Memory of the service's packet core, octets. */
  memoryBytes: number;
  /** Connections that are followed at one time. */
  maxConnections: number;
}

/** Table `health` of a service. */
export interface HealthConfig {
  /** Program and arguments; status 0 is healthy. */
  command: string[];
  /** Between two of them, milliseconds. */
  everyMs: number;
  /** How long one may take, milliseconds. */
  timeoutMs: number;
  /** So many failures in a row: the server hangs. */
  failures: number;
}

/** Table `log` of a service. */
export interface LogConfig {
  /** Where logs are kept: on disk they outlive the daemon and its host's power. */
  store: "memory" | "disk";
  /** What is kept of one connection, octets from its first. */
  limitBytes: number;
  /** At the limit the connection becomes unprotected, or its client is held. */
  full: "unprotect" | "hold";
}

/** One thing that is wrong with a file. */
export interface ConfigProblem {
  /** Where: "service[0].commit"; empty for the file as a whole. */
  path: string;
  /** What was found and what is allowed. */
  message: string;
}

/** A file that cannot be used. */
export class ConfigError extends Error {
  /** Always "ConfigError". */
  override readonly name = "ConfigError";
  /** The file. */
  readonly file: string;
  /** All that is wrong with it. */
  readonly problems: readonly ConfigProblem[];

  /** Puts one line for each problem into the message. */
  constructor(file: string, problems: readonly ConfigProblem[]) {
    super(
      problems.map(({ path, message }) =>
        path === "" ? `${file}: ${message}` : `${file}: ${path}: ${message}`
      ).join("\n"),
    );
    this.file = file;
    this.problems = problems;
  }
}

const DURATION_UNITS: Record<string, number> = {
  us: 1,
  ms: 1000,
  s: 1_000_000,
  min: 60_000_000,
  h: 3_600_000_000,
};
const SIZE_UNITS: Record<string, number> = { B: 1, KiB: KIB, MiB: MIB, GiB: GIB };

/**
 * Reads a duration.
 *
 * @param text A decimal number and a unit: "50us", "10ms", "1.5s", "2min", "1h".
 * @returns Whole microseconds; null when `text` is not a duration.
 */
export function parseDuration(text: string): number | null {
  return parseQuantity(text, DURATION_UNITS);
}

/**
 * Reads a size.
 *
 * @param text A decimal number and a unit: "512B", "64KiB", "4MiB", "1.5GiB".
 * @returns Whole octets; null when `text` is not a size.
 */
export function parseSize(text: string): number | null {
  return parseQuantity(text, SIZE_UNITS);
}

/** A number of units; null unless that is a whole number of the smallest one. */
function parseQuantity(text: string, units: Record<string, number>): number | null {
  const match = /^(\d{1,15}(?:\.\d{1,9})?)\s?([A-Za-z]+)$/.exec(text);
  if (match === null || !Object.hasOwn(units, match[2])) return null;
  const value = Number(match[1]) * units[match[2]];
  return Number.isSafeInteger(value) ? value : null;
}

// Leaves: each carries the text of what is allowed as its message.

function duration(leastText: string, mostText: string) {
  const allowed = `a duration from "${leastText}" to "${mostText}"`;
  return quantity(allowed, parseDuration, {
    least: parseDuration(leastText)!,
    most: parseDuration(mostText)!,
  });
}

function size(leastText: string, mostText: string) {
  const allowed = `a size from "${leastText}" to "${mostText}"`;
  return quantity(allowed, parseSize, {
    least: parseSize(leastText)!,
    most: parseSize(mostText)!,
  });
}

/** A time of day with its date, UTC; seconds since 1970. */
function instant() {
  const pattern = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;
  return converted('a time in UTC like "2026-01-01T00:00:00Z", from 1970 on', (text) => {
    const ms = pattern.test(text) ? Date.parse(text) : NaN;
    return ms >= 0 ? ms / 1000 : null;
  });
}

function quantity(
  allowed: string,
  read: (text: string) => number | null,
  range: { least: number; most: number },
) {
  return converted(allowed, (text) => {
    const value = read(text);
    return value === null || value < range.least || value > range.most ? null : value;
  });
}

/** Text that `read` makes something of; null when it cannot. */
function converted<T>(allowed: string, read: (text: string) => T | null) {
  return v.pipe(
    v.string(allowed),
    v.rawTransform<string, T>(({ dataset, addIssue, NEVER }) => {
      const value = read(dataset.value);
      if (value !== null) return value;
      addIssue({ message: allowed });
      return NEVER;
    }),
  );
}

/** As {@linkcode converted}, for readers that throw RangeError. */
function readable<T>(allowed: string, read: (text: string) => T | null) {
  return converted(allowed, (text) => {
    try {
      return read(text);
    } catch (error) {
      if (error instanceof RangeError) return null;
      throw error;
    }
  });
}

function matching(pattern: RegExp, allowed: string) {
  return v.pipe(v.string(allowed), v.regex(pattern, allowed));
}

function wholeNumber(least: number, most: number) {
  const allowed = `a whole number from ${least} to ${most}`;
  return v.pipe(
    v.number(allowed),
    v.integer(allowed),
    v.minValue(least, allowed),
    v.maxValue(most, allowed),
  );
}

function choice<const T extends string>(...options: T[]) {
  const allowed = options.map((option) => `"${option}"`).join(" or ");
  return v.picklist(options, (issue) => {
    const near = typeof issue.input === "string" ? nearest(issue.input, options) : null;
    const isSlip = near !== null && near.distance <= SLIP_DISTANCE_MAX;
    return isSlip ? `${allowed}; did you mean "${near.word}"?` : allowed;
  });
}

function listOf<S extends v.GenericSchema>(item: S, most: number, allowed: string) {
  return v.pipe(v.array(item, allowed), v.minLength(1, allowed), v.maxLength(most, allowed));
}

function flag() {
  return v.boolean("true or false");
}

// Tables: like v.strictObject(), but every unknown key is reported, with the nearest known one.

/** Which tables know a key. */
const homes = new Map<string, string>();

function tableBody<E extends v.ObjectEntries>(title: string, entries: E) {
  const known = Object.keys(entries);
  for (const key of known) if (!homes.has(key)) homes.set(key, title);
  return v.pipe(
    v.looseObject(entries, (issue) => allowedFor(entries, issue)),
    v.rawCheck(({ dataset, addIssue }) => {
      const input = dataset.value as Record<string, unknown>;
      if (typeof input !== "object" || input === null) return;
      for (const key of Object.keys(input).filter((key) => !Object.hasOwn(entries, key))) {
        const home = homes.get(key);
        const advice = home !== undefined && home !== title
          ? `it belongs to ${home}`
          : `the nearest known key is "${nearest(key, known)!.word}"`;
        const item = { type: "object", origin: "key", input, key, value: input[key] } as const;
        addIssue({
          input: input[key],
          message: `unknown key of ${title}, found ${show(input[key])}; ${advice}; ` +
            `allowed are ${known.join(", ")}`,
          path: [item],
        });
      }
    }),
  );
}

function table<E extends v.ObjectEntries>(title: string, entries: E) {
  return v.pipe(
    v.custom<Record<string, unknown>>(isTable, `a table with ${Object.keys(entries).join(", ")}`),
    tableBody(title, entries),
  );
}

/** What is allowed where a key is missing. */
function allowedFor(entries: v.ObjectEntries, issue: v.BaseIssue<unknown>): string {
  const key = String(issue.path?.at(-1)?.key);
  const schema = Object.hasOwn(entries, key) ? entries[key] : undefined;
  const message = schema !== undefined && "message" in schema ? schema.message : undefined;
  return typeof message === "string" ? message : "a table";
}

function isTable(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    !(value instanceof Date);
}

const NAME_ALLOWED =
  'a name of 1 to 32 letters, digits, "-", "_" and "." that begins with a letter or digit';
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/;
const CLUSTER_NAME_ALLOWED =
  'a name of 1 to 80 letters, digits, "-", "_", "+" and "." that begins with a letter or digit';
const FILE_ALLOWED = "a file name";
const ADDRESS_ALLOWED = 'an IPv4 or IPv6 address of a host, "10.0.0.100" or "fd00::100"';
const ENDPOINT_ALLOWED = 'an address and port, "10.0.0.1:7946" or "[fd00::1]:7946"';
const KINDS_ALLOWED = '"witness", "etcd" or "fence"';
const RUN_ALLOWED = 'a list of program and arguments, ["nginx", "-g", "daemon off;"]';
const LINKS_ALLOWED =
  `a list of 1 to ${LIMITS.links} links, [ { local = "10.0.0.1:7946", remote = "10.0.0.2:7946" } ]`;

function name() {
  return matching(NAME, NAME_ALLOWED);
}

function fileName() {
  // deno-lint-ignore no-control-regex
  return matching(/^[^\x00]+$/, FILE_ALLOWED);
}

function hostAddress() {
  return readable(ADDRESS_ALLOWED, (text) => {
    const { text: canonical, version, bytes } = parseAddress(text);
    return isHostAddress(version, bytes) ? canonical : null;
  });
}

/** Not unspecified, loopback, multicast, broadcast, or (IPv6) valid on one link only. */
function isHostAddress(version: 4 | 6, bytes: Uint8Array): boolean {
  if (version === 4) return bytes[0] !== 0 && bytes[0] !== 127 && bytes[0] < 224;
  const isLow = bytes.subarray(0, 15).every((octet) => octet === 0) && bytes[15] < 2;
  const isLinkLocal = bytes[0] === 0xfe && (bytes[1] & 0xc0) === 0x80;
  return !isLow && !isLinkLocal && bytes[0] !== 0xff;
}

function endpoint() {
  return readable(ENDPOINT_ALLOWED, (text) => {
    const parsed = parseHostPort(text);
    return parsed.port === 0 || !isHostAddress(parsed.address.version, parsed.address.bytes)
      ? null
      : formatHostPort(parsed);
  });
}

function command() {
  // deno-lint-ignore no-control-regex
  const words = listOf(matching(/^[^\x00]*$/, "text"), LIMITS.arguments, RUN_ALLOWED);
  return v.pipe(words, v.check(([program]) => program !== "", RUN_ALLOWED));
}

const SCHEMA = table("the top level", {
  node: table("[node]", {
    name: name(),
    state_dir: v.optional(fileName(), "/var/lib/holdfast"),
    control: v.optional(fileName()),
  }),
  peer: v.optional(
    v.pipe(
      v.array(
        table("[[peer]]", {
          name: name(),
          links: listOf(
            table("links", { local: endpoint(), remote: endpoint() }),
            LIMITS.links,
            LINKS_ALLOWED,
          ),
        }),
        "tables [[peer]]",
      ),
      v.maxLength(LIMITS.peers, `at most ${LIMITS.peers} tables [[peer]]`),
    ),
    [],
  ),
  cluster: v.optional(
    table("[cluster]", {
      tls: v.optional(
        table("tls", {
          ca: fileName(),
          cert: fileName(),
          key: fileName(),
          renew: v.optional(duration("1s", "24h"), "10min"),
          renew_size: v.optional(size("1MiB", "1024GiB"), "64GiB"),
        }),
      ),
      name: v.optional(matching(/^[A-Za-z0-9][A-Za-z0-9._+-]{0,79}$/, CLUSTER_NAME_ALLOWED)),
      insecure: v.optional(flag(), false),
      heartbeat: v.optional(duration("1ms", "10s"), "10ms"),
      detect: v.optional(wholeNumber(2, 100), 3),
      spin: v.optional(duration("0us", "10ms"), "200us"),
      arbiter: v.optional(
        v.variant(
          "kind",
          [
            tableBody("arbiter of kind witness", {
              kind: v.literal("witness"),
              address: endpoint(),
            }),
            tableBody("arbiter of kind etcd", {
              kind: v.literal("etcd"),
              endpoints: listOf(
                matching(/^https?:\/\/[^\s]+$/, 'a URL, "http://10.0.0.9:2379"'),
                LIMITS.links,
                'a list of URLs, ["http://10.0.0.9:2379"]',
              ),
            }),
            tableBody("arbiter of kind fence", {
              kind: v.literal("fence"),
              command: command(),
              gateway: hostAddress(),
            }),
          ],
          (issue) => `${issue.path === undefined ? "a table whose kind is " : ""}${KINDS_ALLOWED}`,
        ),
      ),
    }),
    {},
  ),
  service: v.pipe(
    v.array(
      table("[[service]]", {
        name: name(),
        address: hostAddress(),
        ports: listOf(
          wholeNumber(1, 65535),
          LIMITS.ports,
          `a list of 1 to ${LIMITS.ports} TCP ports, [80]`,
        ),
        interface: matching(
          /^(?!\.{1,2}$)[!-~]{1,15}(?<![/:%].*)$/,
          "the name of a network interface, 1 to 15 characters",
        ),
        prefer: v.optional(name()),
        mode: v.optional(choice("hot", "log"), "hot"),
        commit: v.optional(choice("strict", "ack"), "strict"),
        commit_copies: v.optional(wholeNumber(1, LIMITS.peers), 1),
        run: v.optional(command()),
        user: v.optional(matching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?$/, "the name of a user")),
        health: v.optional(
          table("health", {
            command: command(),
            every: v.optional(duration("10ms", "1h"), "1s"),
            timeout: v.optional(duration("10ms", "1h"), "2s"),
            failures: v.optional(wholeNumber(1, 1000), 3),
          }),
        ),
        determinism: v.optional(choice("none", "faketime"), "none"),
        clock_base: v.optional(instant(), "2026-01-01T00:00:00Z"),
        netns: v.optional(name()),
        divergence: v.optional(choice("reset", "unprotect", "ignore"), "reset"),
        fin_wait: v.optional(duration("0ms", "1h"), "2s"),
        lag_bytes: v.optional(size("1KiB", "1GiB"), "4MiB"),
        lag_time: v.optional(duration("1ms", "1h"), "2s"),
        unprotectable: v.optional(choice("pass", "refuse"), "pass"),
        log_limit: v.optional(size("64KiB", "1GiB"), "8MiB"),
        rejoin_limit: v.optional(size("0B", "1GiB"), "64KiB"),
        log: v.optional(
          table("log", {
            store: v.optional(choice("memory", "disk"), "memory"),
            limit: v.optional(size("64KiB", "1GiB"), LOG_LIMIT),
            full: v.optional(choice("unprotect", "hold"), "unprotect"),
          }),
        ),
        hint: v.optional(choice("none", "http/1.1"), "none"),
        memory: v.optional(size("48MiB", "4095MiB"), "256MiB"),
        max_connections: v.optional(wholeNumber(1, 4_000_000), 65536),
        uplink: v.optional(flag(), true),
      }),
      "tables [[service]]",
    ),
    v.minLength(1, "at least one table [[service]]"),
    v.maxLength(LIMITS.services, `at most ${LIMITS.services} tables [[service]]`),
  ),
});

type Document = v.InferOutput<typeof SCHEMA>;

/**
 * Reads a configuration file.
 *
 * @throws {ConfigError} When it cannot be read or used; the message has a line for each problem.
 */
export async function loadConfig(path: string): Promise<Config> {
  let text: string;
  try {
    const { size } = await Deno.stat(path);
    if (size > CONFIG_LENGTH_MAX) {
      throw new RangeError(`it has ${size} octets, allowed are ${CONFIG_LENGTH_MAX}`);
    }
    text = await Deno.readTextFile(path);
  } catch (error) {
    const why = error instanceof Deno.errors.NotFound
      ? "there is no such file"
      : (error as Error).message;
    throw new ConfigError(path, [{ path: "", message: `cannot be read: ${why}` }]);
  }
  return parseConfig(text, path);
}

/**
 * Reads the text of a configuration file.
 *
 * @param text TOML.
 * @param file Its name, for messages; relative file names in it are resolved against its directory.
 * @throws {ConfigError} When it cannot be used; the message has a line for each problem.
 */
export function parseConfig(text: string, file: string): Config {
  let raw: Record<string, unknown>;
  try {
    raw = parseToml(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = error.message.split("\n")[0].replace(/^Invalid TOML document: /, "");
    const message = `line ${error.line}, column ${error.column}: not TOML: ${reason}`;
    throw new ConfigError(file, [{ path: "", message }]);
  }
  const result = v.safeParse(SCHEMA, raw);
  const problems = [
    ...(result.issues ?? []).map(problemOf),
    ...problemsBetween(raw),
    ...reservedKeys(raw, []),
  ];
  if (!result.success || problems.length > 0) throw new ConfigError(file, problems);
  return toConfig(result.output, file);
}

/** What valibot found, in our words. */
function problemOf(issue: v.BaseIssue<unknown>): ConfigProblem {
  const path = pathOf((issue.path ?? []).map((item) => item.key as string | number));
  if (issue.type === "raw_check") return { path, message: issue.message };
  const found = issue.input === undefined ? "missing" : `found ${show(issue.input)}`;
  return { path, message: `${found}, allowed: ${issue.message}` };
}

/** Keys that valibot passes over in silence, because objects have them by themselves. */
const RESERVED_KEYS = ["__proto__", "constructor", "prototype"];

/** A problem for each reserved key in `value`, which the TOML parser has bounded in depth. */
function reservedKeys(value: unknown, path: readonly (string | number)[]): ConfigProblem[] {
  if (Array.isArray(value)) {
    return value.flatMap((item, index) => reservedKeys(item, [...path, index]));
  }
  if (!isTable(value)) return [];
  return Object.entries(value as Record<string, unknown>).flatMap(([key, inner]) =>
    RESERVED_KEYS.includes(key)
      ? [{
        path: pathOf([...path, key]),
        message: `unknown key, found ${show(inner)}; allowed: none`,
      }]
      : reservedKeys(inner, [...path, key])
  );
}

/** "service[0].ports[1]" */
function pathOf(keys: readonly (string | number)[]): string {
  return keys.reduce<string>((path, key) => {
    if (typeof key === "number") return `${path}[${key}]`;
    const word = /^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key);
    return path === "" ? word : `${path}.${word}`;
  }, "");
}

const SHOWN_LENGTH_MAX = 60;

/** A value as it would stand in the file, shortened. */
function show(value: unknown): string {
  if (isTable(value)) return "a table";
  if (value instanceof Date) return value.toISOString();
  if (typeof value === "bigint") return String(value);
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= SHOWN_LENGTH_MAX ? text : `${text.slice(0, SHOWN_LENGTH_MAX)}...`;
}

/** What is wrong between values that are right each by itself; takes values of any type. */
function problemsBetween(raw: Record<string, unknown>): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const node = textAt(raw.node, "name");
  const peers = tablesAt(raw.peer);
  const services = tablesAt(raw.service);
  const nodes = [node, ...peers.map((peer) => textAt(peer, "name"))];
  problems.push(
    ...repeated(nodes, (index) => index === 0 ? "node.name" : `peer[${index - 1}].name`),
  );

  const links = peers.flatMap((peer, index) =>
    tablesAt(peer.links).map((link, number) => ({
      path: `peer[${index}].links[${number}]`,
      local: canonicalEndpoint(textAt(link, "local")),
      remote: canonicalEndpoint(textAt(link, "remote")),
    }))
  );
  problems.push(
    ...repeated(links.map((link) => link.local), (index) => `${links[index].path}.local`),
  );
  for (const { path, local, remote } of links) {
    if (local === undefined || remote === undefined) continue;
    const isMixed = local.startsWith("[") !== remote.startsWith("[");
    if (!isMixed && local !== remote) continue;
    const allowed = isMixed
      ? "two addresses of one IP version"
      : "the peer's own address, other than local";
    problems.push({
      path: `${path}.remote`,
      message: `found ${show(remote)} beside local ${show(local)}, allowed: ${allowed}`,
    });
  }

  problems.push(
    ...repeated(services.map((s) => textAt(s, "name")), (i) => `service[${i}].name`),
    ...repeated(
      services.map((s) => canonicalAddress(textAt(s, "address"))),
      (i) => `service[${i}].address`,
    ),
    ...repeated(
      services.map((s) => textAt(s, "netns") ?? defaultNetns(textAt(s, "name"))),
      (i) => `service[${i}].netns`,
    ),
  );
  for (const [index, service] of services.entries()) {
    const path = `service[${index}]`;
    const ports = Array.isArray(service.ports) ? service.ports : [];
    problems.push(...repeated(ports, (number) => `${path}.ports[${number}]`));
    const mode = service.mode === "log" ? "log" : "hot";
    if (isTable(service.log)) {
      const { store } = service.log as Record<string, unknown>;
      if (store === "disk" && mode === "hot") {
        problems.push({
          path: `${path}.log.store`,
          message: 'found "disk" beside mode = "hot", allowed: "memory", or mode = "log"',
        });
      } else if (store === "disk") problems.push(...diskProblems(raw, service, path));
    }
    const copies = service.commit_copies;
    if (typeof copies === "number" && copies > 1) {
      const most = Math.max(1, tablesAt(raw.peer).length);
      if (copies > most) {
        problems.push({
          path: `${path}.commit_copies`,
          message: `found ${copies} beside ${
            tablesAt(raw.peer).length
          } tables [[peer]], allowed: at most ${most}`,
        });
      } else if (service.commit === "ack") {
        problems.push({
          path: `${path}.commit_copies`,
          message: `found ${copies} beside commit = "ack", allowed: commit = "strict", or 1`,
        });
      }
    }
    // Whole logs are kept then.
    const other = mode === "log" ? 'for "log"' : "with a table log";
    const isKept = mode === "log" || isTable(service.log);
    if (isKept && service.log_limit !== undefined) {
      problems.push({
        path: `${path}.log_limit`,
        message: `found ${show(service.log_limit)}, allowed: only beside mode = "hot"; ${other} ` +
          "it is log.limit",
      });
    }
    if (isKept && service.rejoin_limit !== undefined) {
      problems.push({
        path: `${path}.rejoin_limit`,
        message:
          `found ${show(service.rejoin_limit)}, allowed: only beside mode = "hot"; ${other} ` +
          "all of the log is kept",
      });
    }
    problems.push(...hintProblems(service, path, peers.length));
    if (service.determinism === "faketime" && service.run === undefined) {
      problems.push({
        path: `${path}.determinism`,
        message: 'found "faketime" without run, allowed: only for a server that Holdfast starts',
      });
    }
    if (service.clock_base !== undefined && service.determinism !== "faketime") {
      problems.push({
        path: `${path}.clock_base`,
        message: `found ${show(service.clock_base)}, allowed: only beside determinism = "faketime"`,
      });
    }
    const prefer = textAt(service, "prefer");
    if (prefer !== undefined && !nodes.includes(prefer)) {
      const allowed = nodes.filter((name) => name !== undefined).map(show).join(" or ");
      problems.push({
        path: `${path}.prefer`,
        message: `found ${show(prefer)}, allowed: a node of the cluster: ${allowed}`,
      });
    }
  }

  const cluster = isTable(raw.cluster) ? raw.cluster as Record<string, unknown> : {};
  const hasTls = cluster.tls !== undefined;
  if (hasTls) problems.push(...controlPortProblems(peers));
  if (hasTls && cluster.insecure === true) {
    problems.push({
      path: "cluster.insecure",
      message: "found true beside tls, allowed: one of the two",
    });
  }
  const arbiter = arbiterKind(raw);
  if (peers.length > 1 && arbiter !== "witness" && arbiter !== "etcd") {
    problems.push({
      path: "cluster.arbiter",
      message: `found ${arbiter === null ? "none" : show(arbiter)} beside ${peers.length} tables ` +
        '[[peer]], allowed: kind = "witness" or "etcd", as more than two replicas need a register',
    });
  }
  const isUndecided = cluster.insecure === undefined || cluster.insecure === false;
  if (peers.length > 0 && !hasTls && isUndecided) {
    const found = cluster.insecure === undefined ? "missing" : "found false";
    problems.push({
      path: "cluster.insecure",
      message: `${found}, allowed: true, which accepts that replicas talk in plain text, ` +
        "or certificates in tls instead",
    });
  }
  return problems;
}

function arbiterKind(raw: Record<string, unknown>): string | null {
  const { arbiter } = isTable(raw.cluster) ? raw.cluster as Record<string, unknown> : {};
  return isTable(arbiter) ? textAt(arbiter as Record<string, unknown>, "kind") ?? null : null;
}

/** What a service that hints at what its streams are cannot have. */
function hintProblems(
  service: Record<string, unknown>,
  path: string,
  peers: number,
): ConfigProblem[] {
  if (service.hint === undefined || service.hint === "none") return [];
  const found = `found ${show(service.hint)}`;
  if (peers > 1) {
    // A log is cut when the standby can do without; of those behind it nobody asks.
    const message = `${found} beside ${peers} tables [[peer]], allowed: one peer at most`;
    return [{ path: `${path}.hint`, message }];
  }
  if (service.divergence === "ignore") {
    // A hint that is wrong shows in what is compared, and nowhere else.
    const message =
      `${found} with divergence = "ignore", allowed: only beside "reset" or "unprotect"`;
    return [{ path: `${path}.hint`, message }];
  }
  if (service.mode !== "log" && service.rejoin_limit === "0B") {
    const message = `${found} with rejoin_limit = "0B", allowed: only where something is kept`;
    return [{ path: `${path}.hint`, message }];
  }
  return [];
}

/** What a service with its log on disk cannot have. */
function diskProblems(
  raw: Record<string, unknown>,
  service: Record<string, unknown>,
  path: string,
): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const refuse = (message: string) => problems.push({ path: `${path}.log.store`, message });
  const peers = tablesAt(raw.peer).length;
  const kind = arbiterKind(raw);
  const isRegister = kind === "witness" || kind === "etcd";
  if (peers > 1) refuse(`found "disk" beside ${peers} tables [[peer]], allowed: one peer at most`);
  else if (peers === 1 && !isRegister) {
    const found = kind === null ? "without an arbiter" : `beside cluster.arbiter of kind "${kind}"`;
    refuse(
      `found "disk" ${found}, allowed: kind = "witness" or "etcd", as only a register tells which ` +
        "of two hosts' logs is the newer one",
    );
  } else if (peers === 0 && kind !== null) {
    refuse('found "disk" beside cluster.arbiter, allowed: one host alone, which asks nobody');
  }
  if (service.commit === "ack") {
    refuse('found "disk" beside commit = "ack", allowed: commit = "strict"');
  }
  return problems;
}

/** Certificates take the port above each link's too (peer_control.ts). */
function controlPortProblems(peers: readonly Record<string, unknown>[]): ConfigProblem[] {
  const ends = peers.flatMap((peer, number) =>
    tablesAt(peer.links).map((link, index) => ({
      path: `peer[${number}].links[${index}]`,
      local: canonicalEndpoint(textAt(link, "local")),
      remote: canonicalEndpoint(textAt(link, "remote")),
    }))
  );
  const locals = ends.map(({ local }) => local);
  return ends.flatMap(({ path, ...link }) =>
    (["local", "remote"] as const).flatMap((side) => {
      const text = link[side];
      if (text === undefined) return [];
      const { address, port } = parseHostPort(text);
      const next = port === 65535 ? null : formatHostPort({ address, port: port + 1 });
      if (next !== null && (side === "remote" || !locals.includes(next))) return [];
      const found = next === null ? "" : `, and ${next} is another link's`;
      const message = `found ${show(text)}${found}, allowed with tls: a port below 65535 whose ` +
        "successor is free for the control connection";
      return [{ path: `${path}.${side}`, message }];
    })
  );
}

/** A problem for each value that stood there before. */
function repeated(
  values: readonly unknown[],
  pathOfIndex: (index: number) => string,
): ConfigProblem[] {
  return values.flatMap((value, index) => {
    const first = value === undefined ? index : values.indexOf(value);
    if (first === index) return [];
    const message = `found ${show(value)} as in ${pathOfIndex(first)}, allowed: each value once`;
    return [{ path: pathOfIndex(index), message }];
  });
}

function tablesAt(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.map((item) => isTable(item) ? item : {}) : [];
}

function textAt(value: unknown, key: string): string | undefined {
  const text = isTable(value) ? (value as Record<string, unknown>)[key] : undefined;
  return typeof text === "string" ? text : undefined;
}

/** The canonical text; undefined for what is no address, which is reported elsewhere. */
function canonicalAddress(text: string | undefined): string | undefined {
  return text === undefined ? undefined : orUndefined(() => parseAddress(text).text);
}

function canonicalEndpoint(text: string | undefined): string | undefined {
  return text === undefined ? undefined : orUndefined(() => formatHostPort(parseHostPort(text)));
}

function orUndefined(read: () => string): string | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function defaultNetns(service: string | undefined): string | undefined {
  return service === undefined ? undefined : `hf-${service}`;
}

/** The values under our names. */
function toConfig(document: Document, file: string): Config {
  const { node, peer, cluster, service } = document;
  const directory = dirname(resolve(file));
  const control = resolve(directory, node.control ?? `/run/holdfast/${node.name}.sock`);
  if (new TextEncoder().encode(control).length > SOCKET_PATH_LENGTH_MAX) {
    throw new ConfigError(file, [{
      path: "node.control",
      message: `found ${
        show(control)
      }, allowed: a path of at most ${SOCKET_PATH_LENGTH_MAX} octets`,
    }]);
  }
  const { tls } = cluster;
  return {
    file,
    node: { name: node.name, stateDir: resolve(directory, node.state_dir), control },
    peers: peer.map(({ name, links }) => ({
      name,
      links: links.map(({ local, remote }) => ({ local, remote })),
    })),
    cluster: {
      name: cluster.name ??
        [node.name, ...peer.map(({ name }) => name)].sort().join("+").slice(0, 80),
      tls: tls === undefined ? null : {
        ca: resolve(directory, tls.ca),
        cert: resolve(directory, tls.cert),
        key: resolve(directory, tls.key),
        renewMs: tls.renew / 1000,
        renewOctets: tls.renew_size,
      },
      insecure: cluster.insecure,
      heartbeatMs: cluster.heartbeat / 1000,
      detect: cluster.detect,
      spinUs: cluster.spin,
      arbiter: cluster.arbiter ?? null,
    },
    services: service.map((s) => ({
      name: s.name,
      address: s.address,
      ports: s.ports,
      interface: s.interface,
      prefer: s.prefer ?? null,
      mode: s.mode,
      keepsLogs: s.mode === "log" || s.log !== undefined,
      commit: s.commit,
      commitCopies: s.commit_copies,
      run: s.run ?? null,
      user: s.user ?? null,
      health: s.health === undefined ? null : {
        command: s.health.command,
        everyMs: s.health.every / 1000,
        timeoutMs: s.health.timeout / 1000,
        failures: s.health.failures,
      },
      clockBaseS: s.determinism === "faketime" ? s.clock_base : null,
      netns: s.netns ?? defaultNetns(s.name)!,
      uplink: s.uplink,
      divergence: s.divergence,
      unprotectable: s.unprotectable,
      finWaitMs: s.fin_wait / 1000,
      lagBytes: s.lag_bytes,
      lagTimeMs: s.lag_time / 1000,
      logLimitBytes: s.log_limit,
      rejoinLimitBytes: s.rejoin_limit,
      log: {
        store: s.log?.store ?? "memory",
        limitBytes: s.log?.limit ?? parseSize(LOG_LIMIT)!,
        full: s.log?.full ?? "unprotect",
      },
      hint: s.hint,
      memoryBytes: s.memory,
      maxConnections: s.max_connections,
    })),
  };
}

/** What an operator should know of a configuration that will be used as it is. */
export function warnings(config: Config): string[] {
  const { cluster, peers, services } = config;
  const found = services.filter(({ clockBaseS }) => clockBaseS !== null).map(({ name }) =>
    `determinism = "faketime": whoever knows the names of cluster and service can foretell the random ` +
    `numbers of ${name}; not for a server that makes secrets of them`
  );
  if (peers.length === 0) {
    const alone = services.map(({ name, keepsLogs, log }) =>
      log.store === "disk"
        ? `no [[peer]]: connections of ${name} wait while this host or its daemon is down`
        : keepsLogs
        ? `no [[peer]]: connections of ${name} survive the end of their server, not that of this host`
        : `no [[peer]]: nobody can take over, connections of ${name} are passed through unprotected; ` +
          'with mode = "log" they would survive the end of their server'
    );
    return [...found, ...alone];
  }
  if (cluster.insecure) {
    found.push(
      "insecure = true: clients' data crosses the links to the peer in plain text, and whoever can " +
        "send there can end or forge connections; use a network of their own for the links",
    );
  }
  if (cluster.arbiter === null) {
    found.push(
      "no arbiter: two hosts that lose sight of each other both become primary and both answer " +
        "clients; use links over separate cables",
    );
  }
  return found;
}

/**
 * The known word that is nearest to `word` in single-character edits and exchanges of neighbours.
 *
 * @returns null when `known` is empty.
 */
export function nearest(
  word: string,
  known: readonly string[],
): { word: string; distance: number } | null {
  let best: { word: string; distance: number } | null = null;
  for (const candidate of known) {
    const distance = editDistance(word.slice(0, 64), candidate);
    if (best === null || distance < best.distance) best = { word: candidate, distance };
  }
  return best;
}

/** Optimal string alignment distance: insertions, deletions, substitutions, adjacent exchanges. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const isSame = a[i - 1] === b[j - 1];
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (isSame ? 0 : 1));
      const isExchange = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isExchange) row[j] = Math.min(row[j], beforeLast[j - 2] + 1);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length];
}
