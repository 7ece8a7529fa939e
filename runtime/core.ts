/**
 * core.ts - one instance of the packet core, ready to use
 *
 * Theory of operation
 * The core is a WebAssembly module without imports (core/mod.ts says what a pass looks like). This
 * file loads it, names its numbers and gives views over its memory. The memory is taken in
 * `loadCore()` and never grows afterwards, so views and addresses stay valid for good.
 *
 * It uses nothing of an operating system but reading the module's file, so it runs in Deno, and in
 * Node through @deno/shim-deno.
 */

/** What the module exports; numbers are 32 bit. Documented as in core/mod.ts. */
export interface CoreExports {
  /** All of the memory; taken in `init()`, never grown afterwards. */
  readonly memory: WebAssembly.Memory;
  /**
   * Takes memory and lays it out. Call once, before anything else.
   *
   * @param memoryMiB all of the core's memory, in MiB: 48 to 4095
   * @param capacity connection records: 1 to 4194304
   * @param family of the service address, 4 or 6
   * @param chained 1 for a second inbox: more than two replicas
   * @returns octets left for input logs and parked flights, 0 when the memory is too small or not to
   * be had, or when called twice
   */
  init(memoryMiB: number, capacity: number, family: number, chained?: number): number;
  /** Settings of the service. `v0`..`v3`: its address as four words in memory order. */
  configure(
    v0: number,
    v1: number,
    v2: number,
    v3: number,
    commitMode: number,
    logLimit: number,
    refuse: number,
  ): void;
  /** How long one server's FIN or RST waits for the other's, in milliseconds. */
  setJudgement(finWaitMs: number): void;
  /** What becomes of connections whose servers wrote different octets, `Divergence` in core/state.ts. */
  setDivergence(policy: number): void;
  /** When a server hangs: what `lag_bytes` and `lag_time` say; 0 ms for never. */
  setLag(lagBytes: number, lagMs: number): void;
  /** 1 while our server hangs. */
  hangs(): number;
  /** Our server was started anew. */
  noteAppStart(): void;
  /** Adds a port that is served. */
  servePort(port: number): void;
  /** Largest MSS that every replica can carry; 0 for no clamp. */
  setMssMax(mss: number): void;
  /** Sets the role outright: at the start, or to fall silent (P6). */
  setRole(role: number): void;
  /** Tells where this memory lies in the host process, for the output list; low and high 32 bits. */
  setBase(low: number, high: number): void;
  /** Begins a pass; `nowMs` is monotonic milliseconds mod 2^32. */
  begin(nowMs: number): void;
  /** Applies a message body; 0, or 1 + the offset of what is not well formed. */
  apply(address: number, length: number): number;
  /** Standby: the same of what the next replica of the chain says. */
  applyNext(address: number, length: number): number;
  /** Runs the pass: packets, timers, feeder, progress, release. Returns the number of outputs. */
  run(netPackets: number, appPackets: number): number;
  /** The part of a pass after the packets; also on its own, after `promote()` or `speak()`. */
  settle(): number;
  /** True when outputs, pumps or speeches wait for another pass that needs no event. */
  more(): number;
  /** How many client-side packets may be read now, whatever they contain. */
  netBudget(): number;
  /** How many server-side packets may be read now, whatever they contain. */
  appBudget(): number;
  /** The standby has applied our messages up to `seq`. */
  committed(seq: number): void;
  /** True when nothing that clients sent waits for its commit. */
  isInputCommitted(): number;
  /** 1 once after a standby was told of a connection that began before it came. */
  takeToldLate(): number;
  /** 1 once after the peer sent something whose commit others wait for. */
  takeAckDue(): number;
  /** True while some record's timer runs, so that passes must go on without packets. */
  hasTimers(): number;
  /** Octets of the message body that waits to be sent. */
  bodyLength(): number;
  /** The number the next message carries. */
  messageSeq(): number;
  /** The body was taken over by the caller. */
  sealed(): void;
  /** Packets that wait for their commit. */
  heldCount(): number;
  /** What the peer stores for each connection: a standby needs it when it is handed the service. */
  setPeerLogLimit(octets: number): void;
  /** A standby that stores `peerLogLimit` octets for each connection is there. */
  standbyJoined(peerLogLimit: number): void;
  /** The standby is gone. */
  standbyLost(): void;
  /** Log mode: the standby is gone, and the disk goes on keeping what it is told. */
  standbyLeft(): void;
  /** Log mode: the disk that was our standby takes no more. */
  storeLost(): void;
  /** Log mode: the segment of the disk's log that the next message, sent or applied, belongs to. */
  setSegment(segment: number): void;
  /** Log mode: the oldest segment that a connection still needs; 2^32 - 1 for none. */
  oldestTold(): number;
  /**
   * Log mode: tells again of connections whose OPEN lies before segment `below`, with about `octets`
   * more in this message. 1 when more remain.
   */
  tellAgain(below: number, octets: number): number;
  /** 1 while connections are to be told to a standby that came later, with `tellAgain(0, ...)`. */
  bringing(): number;
  /** Standby: our server's process has ended, and its connections with it. 1 when another pass is needed. */
  forsake(): number;
  /** The standby's server works again: what it has lost is to be told once more. */
  bring(): void;
  /** Standby: connections that were told late, and that its server is yet to come to. */
  unsettled(): number;
  /** Connections of which the standby has a part only. */
  joining(): number;
  /** Log mode: the disk has stored all that `tellAgain()` told. */
  endJoining(): void;
  /** Standby: nobody follows us any more, or somebody who has nothing yet. */
  loseNext(): void;
  /** Standby: another one is primary, and goes on with what we were told. */
  noteNewPrimary(): void;
  /** All is to be told again to who has come further down the chain: the segment for `tellAgain()`. */
  retell(): number;
  /**
   * Before `promote()` with the next replica of the chain as the standby: message `sent` is the last that was
   * handed on to it, and it has confirmed those up to `confirmed`.
   */
  goOnAfter(sent: number, confirmed: number): void;
  /**
   * Standby to primary: see core/segment/takeover.ts. Returns the number of connections.
   *
   * @param staying who is our standby then, of {@linkcode Staying}
   */
  promote(staying: number): number;
  /** Speaks for connections after the address is claimed; 1 when more remain. */
  speak(): number;
  /** Primary to standby. */
  demote(): void;
  /** Findings since the last call; they lie at `findings()` until the core runs again. */
  takeFindings(): number;
  /** Where the findings lie, see core/judgement.ts. */
  findings(): number;
  /** Octets of a finding. */
  findingSize(): number;
  /** Our server is known to be dead: ends that it alone has said are its death. */
  judgeEnds(): void;
  /** Nobody takes the service over: clients are told of the ends that were judged. */
  releaseEnds(): void;
  /**
   * Log mode: logs are kept from the first octet, and a server is played them when `replay()` says so. With `holds`
   * a client whose log is full is slowed, else it goes on unprotected. With `warm` that goes for a standby, too;
   * else only a primary has a server.
   */
  setLogMode(holds: number, warm?: number): void;
  /** Hot mode: octets of a client's stream that are kept for a standby that comes later; 0 for none. */
  setKeep(octets: number): void;
  /** What both streams of each connection are known to be, `Hint` in core/state.ts. */
  setHint(hint: number): void;
  /** Log mode: ends of our server wait until `confirmEnds()` or `detach()`. */
  endsHeld(): number;
  /** Log mode: our server lives; ends that came before the last probe's answer are told. */
  confirmEnds(): void;
  /**
   * Log mode: asks with a SYN whether a server listens at `port`; `probeAnswer()` says later. With
   * `again` the last question is repeated.
   */
  probe(port: number, again: number): void;
  /** What the last probe found: 0 nothing yet, 1 somebody listens, 2 nobody. */
  probeAnswer(): number;
  /** Log mode: connections leave our server, which is dead, also on a standby. 1 when another pass is needed. */
  detach(): number;
  /** Log mode: a server listens, and is played every connection that has none. */
  replay(): void;
  /** Log mode: connections whose server is not yet where the client is. */
  behind(): number;
  /** Log mode: 1 when the standby could go on with every connection that we have, and its server at once with some. */
  canPass(): number;
  /** Every protected connection's progress goes into the next messages. */
  markAll(): void;
  /** True while progress or reports still wait to be written. */
  dirty(): number;
  /** Client packets that still arrive are handed to the peer (1) or dropped (0). */
  relay(on: number): void;
  /** Drops all records; `reset` ends the local server's connections. */
  forgetAll(reset: number): number;
  /** Records in use. */
  recordsUsed(): number;
  /** Indices below this may be in use. */
  highWater(): number;
  /** Free octets for input logs and parked flights; above 2 GiB as a negative number, as `>>> 0` mends. */
  blockOctetsFree(): number;
  /** Address of a record, 0 when it is free or out of range: read it with the offsets below. */
  recordAt(index: number): number;
  /** Offset of a field of a record, by its place in `FIELDS` of the runtime; see connection.ts. */
  fieldOffset(field: number): number;
  /** Address of the counters, in the order of `Counter`. */
  counters(): number;
  /** Number of counters. */
  counterCount(): number;
  /** Address of the first client-side slot. */
  netSlots(): number;
  /** Address of the first server-side slot. */
  appSlots(): number;
  /** Octets from one slot to the next. */
  slotSize(): number;
  /** Slots of one side. */
  batch(): number;
  /** Address of the client-side packets' lengths, u32 each. */
  netLengths(): number;
  /** Address of the server-side packets' lengths, u32 each. */
  appLengths(): number;
  /** Address of the output list, see segment/output.ts. */
  outList(): number;
  /** Octets of an entry of the output list. */
  outEntry(): number;
  /** Most entries of the output list. */
  outMax(): number;
  /** Address of the message body. */
  body(): number;
  /** Largest body. */
  bodySize(): number;
  /** Octets before `body()` that belong to the caller. */
  bodyHeadroom(): number;
  /** Address of an inbox, free for octets that the caller receives: 0, or 1 for a second peer. */
  inbox(which?: number): number;
  /** Octets of the inbox. */
  inboxSize(which?: number): number;
  /** Octets of a record. */
  recordSize(): number;
  /** RFC 1071 sum of `length` octets at `at`, folded, in memory order, not complemented. */
  checksum(address: number, length: number, initial: number): number;
  /** Extends the digest at `digest` (52 octets, 8-aligned) by `length` octets; `starts`: a new one. */
  digest(digest: number, address: number, length: number, starts: number): bigint;
  /**
   * Takes an HTTP/1.1 message's next octets, core/stream/http_message.ts: 32 octets at `message`, zero for a request's
   * start; the number at its octet 12 says where it stands. Returns how many octets were taken.
   */
  takeMessage(message: number, address: number, length: number): number;
  /** Begins a response to a request whose method is HEAD (1) or not (0), at `message`. */
  startResponse(message: number, isHead: number): void;
  /** Index + 1 of the record with this key (IPv4: one word), 0 for none. */
  find(a0: number, a1: number, a2: number, a3: number, ports: number): number;
  /** Counts an event that the caller saw (a packet the kernel refused). */
  noteSwallowed(): void;
  /** Starts a record's timer at once: for tests of time-outs. */
  expire(index: number): void;
}

/** Roles of an instance, `Role` in core/state.ts. */
export const CoreRole = { silent: 0, standby: 1, primary: 2 } as const;

/** Who is our standby after `promote()`, `Staying` in core/segment/takeover.ts. */
export const Staying = { nobody: 0, peer: 1, store: 2, next: 3 } as const;

/** Counters in the core's order, `Counter` in core/state.ts. */
export const COUNTER_NAMES = [
  "malformed",
  "badChecksum",
  "notOurs",
  "fromClients",
  "toClients",
  "fromServer",
  "toServer",
  "held",
  "replicated",
  "duplicates",
  "outOfWindow",
  "challengedReset",
  "unprotected",
  "tableFull",
  "optionsRemoved",
  "mssClamped",
  "feederTimeouts",
  "feederRefused",
  "parkedSegments",
  "parkedOverflow",
  "acksMade",
  "acksDropped",
  "icmpTranslated",
  "fragments",
  "opened",
  "closed",
  "refused",
  "relayed",
  "peerRecords",
  "swallowed",
  "strangers",
  "endsHeld",
  "diverged",
  "untold",
  "outOfOrder",
  "replayed",
  "cuts",
  "cutOctets",
  "cutsEnded",
] as const;

/** What people are told for each `Reason` of core/flow/connection.ts, in its order. */
export const REASONS = [
  null,
  "no standby was there when it began",
  "the standby was lost",
  "TCP MD5 signatures (RFC 2385) cannot be continued by another server",
  "the TCP authentication option (RFC 5925) cannot be continued by another server",
  "the standby's server refused the connection",
  "the standby's server ended the connection",
  "the standby's server negotiated other TCP options",
  "the standby's connection table is full",
  "the standby had no memory left for the input log",
  "too many gaps in the client's stream",
  "the standby's server took no input for too long",
  "the standby's server has not accepted it yet",
  "the standby is silent",
  "the standby's server ended it alone",
  "the primary's server ended it alone, and nobody could take it over",
  "the two servers answered differently",
  "the client has sent more than its log may hold (log.limit)",
  "a server that was played the log answered otherwise than the one before it",
  "the standby's server hangs",
  "the disk takes no more of the log (log.store)",
  "the standby came later and is being brought to where it is",
  "more was said than is kept for a standby that comes later (rejoin_limit)",
] as const;

/** Record fields in the order of `fieldOffset()` in core/mod.ts. */
export const FIELDS = [
  "ports",
  "flags",
  "phase",
  "leg",
  "reason",
  "bytesIn",
  "bytesOut",
  "openedAt",
  "seenAt",
  "issDelta",
  "rcvNxt",
  "legAck",
  "legNxt",
  "legEdge",
  "cliAck",
  "sndNxt",
  "parkBase",
  "parkEnd",
  "ackShown",
  "edgeShown",
  "cliWnd",
  "irs",
  "iss",
  "tsDelta",
  "tsShown",
  "rangeCount",
  "sndShown",
  "peerEdge",
  "warm",
  "cold",
] as const;

/** Name of a record field. */
export type Field = typeof FIELDS[number];

/** Flags of a record that the runtime looks at, `Flag` in core/flow/connection.ts. */
export const RecordFlag = { hot: 8, fed: 128, logged: 16384, uncut: 0x80000000 } as const;

/** What an instance is made with. */
export interface CoreOptions {
  /** All of its memory, in MiB. */
  memoryMiB: number;
  /** Connection records. */
  capacity: number;
  /** Octets of the service address: 4 or 16. */
  address: Uint8Array;
  /** TCP ports that are served. */
  ports: readonly number[];
  /** When client-bound segments may leave. */
  commit: "strict" | "ack";
  /** What becomes of connections whose servers wrote different octets (P5). */
  divergence: "reset" | "unprotect" | "ignore";
  /** Octets of input kept for one connection. */
  logLimit: number;
  /** Refuse connections that cannot be protected. */
  refuseUnprotectable: boolean;
  /** More than two replicas: there is a second inbox. */
  chained?: boolean;
}

/** An instance with views over its memory. */
export interface Core {
  /** The module's functions. */
  readonly wasm: CoreExports;
  /** All of its memory. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same memory as numbers; little-endian. */
  readonly view: DataView<ArrayBuffer>;
  /** Offsets of record fields. */
  readonly offsets: Readonly<Record<Field, number>>;
}

let compiled: WebAssembly.Module | undefined;

/**
 * The compiled module; read and compiled once.
 *
 * @throws {Error} When it has not been built.
 */
export function coreModule(): WebAssembly.Module {
  if (compiled !== undefined) return compiled;
  const url = new URL("../core/build/holdfast.wasm", import.meta.url);
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = Deno.readFileSync(url);
  } catch (error) {
    throw new Error(
      `Cannot read the packet core ${url.pathname}: build it with "deno task build"`,
      {
        cause: error,
      },
    );
  }
  compiled = new WebAssembly.Module(bytes);
  return compiled;
}

/**
 * Makes an instance.
 *
 * @throws {RangeError} When the memory is too small for the tables or cannot be had.
 */
export function loadCore(options: CoreOptions): Core {
  const instance = new WebAssembly.Instance(coreModule(), {});
  const wasm = instance.exports as unknown as CoreExports;
  const { address } = options;
  const left = wasm.init(
    options.memoryMiB,
    options.capacity,
    address.length === 4 ? 4 : 6,
    options.chained ? 1 : 0,
  );
  if (left === 0) {
    throw new RangeError(
      `Cannot lay out the packet core in ${options.memoryMiB} MiB for ${options.capacity} ` +
        `connections: allowed are 48 to 4095 MiB and about 0.7 KiB more for each connection`,
    );
  }
  const padded = new Uint8Array(16);
  padded.set(address);
  const words = new DataView(padded.buffer);
  wasm.configure(
    words.getUint32(0, true),
    words.getUint32(4, true),
    words.getUint32(8, true),
    words.getUint32(12, true),
    options.commit === "strict" ? 0 : 1,
    options.logLimit,
    options.refuseUnprotectable ? 1 : 0,
  );
  wasm.setDivergence({ ignore: 0, reset: 1, unprotect: 2 }[options.divergence]);
  for (const port of options.ports) wasm.servePort(port);
  const buffer = wasm.memory.buffer;
  const offsets = Object.fromEntries(
    FIELDS.map((field, index) => [field, wasm.fieldOffset(index)]),
  ) as Record<Field, number>;
  return { wasm, bytes: new Uint8Array(buffer), view: new DataView(buffer), offsets };
}

/** The counters by name. */
export function readCounters(core: Core): Record<string, number> {
  const at = core.wasm.counters();
  return Object.fromEntries(
    COUNTER_NAMES.map((name, index) => [name, core.view.getUint32(at + index * 4, true)]),
  );
}
