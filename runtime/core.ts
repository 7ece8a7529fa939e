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

/** Functions the module exports; numbers are 32 bit. See core/mod.ts. */
export interface CoreExports {
  readonly memory: WebAssembly.Memory;
  init(memoryMiB: number, capacity: number, family: number): number;
  configure(
    v0: number,
    v1: number,
    v2: number,
    v3: number,
    commitMode: number,
    logLimit: number,
    refuse: number,
  ): void;
  servePort(port: number): void;
  setMssMax(mss: number): void;
  setRole(role: number): void;
  setBase(low: number, high: number): void;
  begin(nowMs: number): void;
  apply(address: number, length: number): number;
  run(netPackets: number, appPackets: number): number;
  settle(): number;
  more(): number;
  netBudget(): number;
  appBudget(): number;
  committed(seq: number): void;
  isInputCommitted(): number;
  takeAckDue(): number;
  hasTimers(): number;
  bodyLength(): number;
  messageSeq(): number;
  sealed(): void;
  heldCount(): number;
  setPeerLogLimit(octets: number): void;
  standbyJoined(peerLogLimit: number): void;
  standbyLost(): void;
  promote(peerStays: number): number;
  speak(): number;
  demote(): void;
  markAll(): void;
  dirty(): number;
  relay(on: number): void;
  forgetAll(reset: number): void;
  recordsUsed(): number;
  highWater(): number;
  blockOctetsFree(): number;
  recordAt(index: number): number;
  fieldOffset(field: number): number;
  counters(): number;
  counterCount(): number;
  netSlots(): number;
  appSlots(): number;
  slotSize(): number;
  batch(): number;
  netLengths(): number;
  appLengths(): number;
  outList(): number;
  outEntry(): number;
  outMax(): number;
  body(): number;
  bodySize(): number;
  bodyHeadroom(): number;
  inbox(): number;
  inboxSize(): number;
  recordSize(): number;
  checksum(address: number, length: number, initial: number): number;
  find(a0: number, a1: number, a2: number, a3: number, ports: number): number;
  noteSwallowed(): void;
  expire(index: number): void;
}

/** Roles of an instance, `Role` in core/state.ts. */
export const CoreRole = { silent: 0, standby: 1, primary: 2 } as const;

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
  "the standby has not confirmed it yet",
  "the standby is silent",
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
] as const;

/** Name of a record field. */
export type Field = typeof FIELDS[number];

/** Flags of a record that the runtime looks at, `Flag` in core/flow/connection.ts. */
export const RecordFlag = { hot: 8, fed: 128 } as const;

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
  /** Octets of input kept for one connection. */
  logLimit: number;
  /** Refuse connections that cannot be protected. */
  refuseUnprotectable: boolean;
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
    throw new Error(`Cannot read the packet core ${url.pathname}: build it with "deno task build"`, {
      cause: error,
    });
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
  const left = wasm.init(options.memoryMiB, options.capacity, address.length === 4 ? 4 : 6);
  if (left === 0) {
    throw new RangeError(
      `Cannot lay out the packet core in ${options.memoryMiB} MiB for ${options.capacity} ` +
        `connections: allowed are 48 to 4095 MiB and about 0.5 KiB more for each connection`,
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
