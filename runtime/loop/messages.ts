/**
 * messages.ts - what the data plane's worker is started with, is told, and says
 *
 * Theory of operation
 * Everything here is plain data. Options cross to the worker once, at the start; commands arrive as JSON
 * through a mailbox that the loop polls with its packets; answers and events leave by postMessage.
 */
import type { DiskLogOptions } from "../log_store/disk_log.ts";
import type { RefusalKind } from "../refusals.ts";
import type { CardState } from "../protocol/card.ts";
import type { Role } from "../protocol/message.ts";
import type { Claim, RegisterValue } from "../protocol/register.ts";
import type {
  ArbiterTimes,
  Arbitration,
  Evidence,
  TakeoverReason,
  Verdict,
} from "../protocol/replica.ts";
import type { CopiesStatus, DiskLogStatus, RecoveryStatus, TakeoverStatus } from "../status.ts";

/** What the loop is started with; plain data, it crosses to the worker. */
export interface LoopOptions {
  /** This node's name. */
  node: string;
  /** The other replicas, in the order in which a primary wants them as its standby. */
  peers: { name: string; links: { local: string; remote: string }[] }[];
  /** Interval of beats, milliseconds. */
  heartbeatMs: number;
  /** Beats that may be missed on every link before the peer counts as down. */
  detect: number;
  /** How long to poll without waiting after the last packet, microseconds; 0 for never. */
  spinUs: number;
  /** Who decides when the replicas lose sight of each other; null for nobody. */
  arbiter: ArbiterTimes | null;
  /** How traffic with the peer is protected; null for plain text. */
  seal: { renewOctets: number } | null;
  /** Counts the passes of the loop, for those who watch it: one 32-bit number. */
  passes: SharedArrayBuffer;
  /** Where commands arrive. */
  mailboxFd: number;
  /** The services of this node. */
  services: LoopServiceOptions[];
}

/** One service of the loop. */
export interface LoopServiceOptions {
  /** Its name, the same on both nodes. */
  name: string;
  /** Service address, canonical text and octets. */
  address: string;
  /** The same as octets: 4 or 16. */
  addressBytes: Uint8Array;
  /** TCP ports that are served. */
  ports: number[];
  /** When client-bound segments may leave (DESIGN 5.3). */
  commit: "strict" | "ack";
  /** What becomes of connections whose servers wrote different octets (P5). */
  divergence: "reset" | "unprotect" | "ignore";
  /** Input log of one connection, octets. */
  logLimit: number;
  /** Hot mode: what is kept of a client's stream for a standby that comes later, octets. */
  rejoinLimit: number;
  /** What both streams of a connection are. */
  hint: "none" | "http/1.1";
  /** Memory of its packet core, MiB. */
  memoryMiB: number;
  /** Connections that are followed at one time. */
  capacity: number;
  /** How many other replicas are to hold a connection. */
  copies: number;
  /** Refuse connections that cannot be protected, instead of passing them. */
  refuseUnprotectable: boolean;
  /** Interface where clients arrive. */
  interfaceName: string;
  /** MTU of the path, octets. */
  mtu: number;
  /** The TUN on the host's side: its name and both descriptors. */
  tunName: string;
  /** Descriptor of the TUN on the clients' side. */
  netFd: number;
  /** Descriptor of the TUN on the server's side. */
  appFd: number;
  /** Node that is primary at the first start; null for the name that sorts first. */
  prefer: string | null;
  /** How long one server's FIN or RST waits for the other's, milliseconds. */
  finWaitMs: number;
  /** How far behind a server may be for `lagTimeMs` though it moves, octets. */
  lagBytes: number;
  /** How long a server may stand still while the other replica's goes on, milliseconds. */
  lagTimeMs: number;
  /** File that keeps the highest epoch. */
  epochFile: string;
  /** Where whole logs are kept; null for hot mode without. */
  log: {
    /** The server runs, and is fed, while this node stands by. */
    isWarm: boolean;
    /** A client whose log is full is slowed, instead of going on unprotected. */
    holds: boolean;
    /** The server is started by this node. */
    spawns: boolean;
    /** Where the log is on disk; null for in memory. */
    disk: DiskLogOptions | null;
  } | null;
}

/** The last time this replica became primary. */
export interface Takeover extends TakeoverStatus {
  /** Why. */
  reason: TakeoverReason;
  /** The term that began with it. */
  epoch: number;
}

/** What the loop knows about a service. */
export interface LoopServiceStatus {
  /** Its name. */
  name: string;
  /** This node's role for it. */
  role: Role;
  /** Highest epoch known. */
  epoch: number;
  /** A standby could take over now. */
  protected: boolean;
  /** How many connections there are, by protection. */
  connections: { total: number; hot: number; log: number; unprotected: number };
  /** Null when this node has not become primary since it started. */
  lastTakeover: Takeover | null;
  /** The core's counters, since the start. */
  counters: Record<string, number>;
  /** Questions to the arbiter; times are wall clock, milliseconds since 1970. */
  arbitration: Arbitration;
  /** A standby that its primary does not want as such: who is primary; else null. */
  spareOf: string | null;
  /** Who else holds the connections. */
  copies: CopiesStatus;
  /** A primary that may send now; it may not while it cannot tell whether another one speaks. */
  speaks: boolean;
  /** Whether the clients' network is heard here, and what says otherwise. */
  card: { state: CardState; seen: string | null };
  /** Our server hangs, as far as its connections show. */
  appHangs: boolean;
  /** What was judged lately and on what evidence, oldest first. */
  judgements: LoopJudgement[];
  /** Log mode: where its server stands; null in hot mode. */
  recovery: RecoveryStatus | null;
  /** Its log on disk; null without one. */
  store: DiskLogStatus | null;
}

/** One judgement. */
export interface LoopJudgement {
  /** When; ISO 8601. */
  at: string;
  /** What. */
  judgement: string;
  /** What it rests on. */
  evidence: Evidence;
}

/** What the loop knows about a link. */
export interface LoopLinkStatus {
  /** Name of the peer. */
  peer: string;
  /** Own end, as configured. */
  local: string;
  /** The peer's end. */
  remote: string;
  /** The peer was heard here in time. */
  up: boolean;
  /** Smoothed round trip of beats, microseconds; null before the first. */
  rttUs: number | null;
}

/** Answer to the command `status`. */
export interface LoopStatus {
  /** One for each service. */
  services: LoopServiceStatus[];
  /** One for each link. */
  links: LoopLinkStatus[];
  /** What came over the links and was not the peer's, by kind. */
  refused: Record<RefusalKind, number>;
  /** Longest pass since the last question, milliseconds. */
  longestPassMs: number;
}

/** One connection, for people. */
export interface LoopConnection {
  /** Name of its service. */
  service: string;
  /** Address and port of the client. */
  client: string;
  /** Port of the service. */
  port: number;
  /** Where handshake and teardown stand. */
  state: "handshake" | "established" | "closing" | "closed";
  /** Whether it would survive the end of this node. */
  protection: "hot" | "log" | "unprotected";
  /** Why it is not protected; null when it is. */
  reason: string | null;
  /** What else there is to know of its protection; null for nothing. */
  note: string | null;
  /** Octets from the client. */
  bytesIn: number;
  /** Octets to the client. */
  bytesOut: number;
  /** Since its first segment, milliseconds. */
  ageMs: number;
  /** Since its last segment, milliseconds. */
  idleMs: number;
  /** Sequence numbers and windows of the record, for diagnosis; see core/flow/connection.ts. */
  numbers: Record<string, number>;
}

/** Answer to the command `switch`. */
export interface LoopSwitch {
  /** Name of the service. */
  service: string;
  /** Name of the new primary. */
  to: string;
  /** The new primary's epoch. */
  epoch: number;
  /** Connections that were handed over. */
  connections: number;
  /** From the last packet forwarded to the peer's word that it speaks, milliseconds. */
  gapMs: number;
}

/** Commands through the mailbox. */
export type LoopCommand =
  & { id: number }
  & (
    | { kind: "status" }
    | { kind: "connections" }
    /**
     * To the standby, who must be `to` when that is given. `isLeaving`: this node ends in any case, so
     * connections that the standby lacks are let go.
     */
    | { kind: "switch"; service: string; to?: string; isLeaving?: boolean }
    /** The spawned server runs as process `pid`, or has ended: how. */
    | { kind: "app"; service: string; ended: string | null; pid: number | null }
    /** Log mode: the processes that listen at the service's ports. */
    | { kind: "listeners"; service: string; pids: number[] }
    /** Log mode: connections leave the server, which is going to be replaced. */
    | { kind: "detach"; service: string }
    /**
     * The server hangs, as `seen` shows, or with null goes on. In log mode one that we start is going to be
     * replaced: then the answer is true.
     */
    | { kind: "hang"; service: string; seen: string | null }
    | { kind: "stop" }
    | { kind: "verdict"; service: string; verdict: Verdict }
    /** What a register holds; without a value it could not be read. */
    | { kind: "register"; service: string; ticket: number; value?: RegisterValue | null }
    | KeyCommand
  );

/**
 * One step of the life of a key that is shared with a peer (protocol/keyring.ts); `secret`, to install, in
 * hexadecimal digits.
 */
export type KeyCommand =
  | { kind: "key"; peer: string; step: "install"; keyId: number; secret: string }
  | { kind: "key"; peer: string; step: "use" | "keepOnly"; keyId: number };

/** What the worker posts. */
export type LoopMessage =
  | { kind: "started" }
  | { kind: "failed"; message: string }
  | { kind: "reply"; id: number; value: unknown }
  | { kind: "error"; id: number; message: string }
  /** Asks the arbiter: to decide a claim, or, without one, for what the register holds. */
  | { kind: "ask"; service: string; ticket: number; claim: Claim | null }
  | {
    kind: "log";
    level: "debug" | "info" | "warn" | "error";
    text: string;
    fields: Record<string, unknown>;
  }
  /** So much was sealed with the key in use that a new one should be agreed on. */
  | { kind: "worn"; peer: string }
  /** Log mode: all connections have a server that is where their clients are, or no longer. */
  | { kind: "settled"; service: string; settled: boolean }
  /** Log mode: the server is wanted here, or no longer. */
  | { kind: "serve"; service: string; wanted: boolean }
  /** An interface has lost its carrier: what the kernel keeps for it is old news. */
  | { kind: "cut"; interfaceName: string }
  /** Log mode: it is to be found out who listens at the service's ports. */
  | { kind: "find"; service: string }
  | { kind: "stopped" };

/** Says something to the main thread. */
export function post(message: LoopMessage): void {
  (self as unknown as Worker).postMessage(message);
}

/** Sends a line to the daemon's log. */
export function log(
  level: "debug" | "info" | "warn" | "error",
  text: string,
  fields: Record<string, unknown> = {},
): void {
  post({ kind: "log", level, text, fields });
}
