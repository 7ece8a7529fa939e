/**
 * view.ts - what people and programs are told of services, links and connections
 *
 * Theory of operation
 * Read from the core's records and from the replicas at the moment of the question; nothing is kept.
 */
import { type Core, type Field, readCounters, REASONS, RecordFlag } from "../core.ts";
import type { Arbitration } from "../protocol/replica.ts";
import type { CopiesStatus } from "../status.ts";
import type { Link } from "./link.ts";
import type { LoopConnection, LoopLinkStatus, LoopServiceStatus } from "./messages.ts";
import type { Service } from "./service.ts";

/** Fields of a record that are shown for diagnosis. */
const NUMBERS = [
  "flags",
  "leg",
  "irs",
  "rcvNxt",
  "rangeCount",
  "legAck",
  "legNxt",
  "legEdge",
  "ackShown",
  "edgeShown",
  "peerEdge",
  "iss",
  "issDelta",
  "sndNxt",
  "sndShown",
  "cliAck",
  "cliWnd",
  "parkBase",
  "parkEnd",
  "tsDelta",
] as const satisfies readonly Field[];

/** What people are told of a connection that a standby follows which could not serve it. */
const STANDBY_NOT_READY = "the standby's server or network card has failed";

/** The same of one that does not hear this host. */
const STANDBY_HEARS_NOTHING =
  "the standby has not heard this host in time, and the arbiter keeps it from taking over";

/** What people are told of one whose log is not cut, though there is a hint (core/segment/cutting.ts). */
const NOT_AS_HINTED = "its streams are not what hint says, so all of its log is kept";
/** The same of one that follows the standby and may not follow the primary. */
const NO_HEIR = "held here too, but the register does not name this node as an heir";

/** Milliseconds since 1970 of a time of `performance.now()`. */
export function wallMs(ms: number): number {
  return performance.timeOrigin + ms;
}

/** The standby could take over now, and its server serve what it follows. */
function isCovered({ replica, appWorks, peerReady }: Service): boolean {
  return replica.hasSuccessor && (replica.role === "standby" ? appWorks : peerReady);
}

/** One service. */
export function serviceStatus(service: Service, nowMs: number): LoopServiceStatus {
  const { core, replica, options } = service;
  let total = 0;
  let hot = 0;
  let log = 0;
  const top = core.wasm.highWater();
  const standby = replica.role === "standby";
  const covered = isCovered(service);
  for (let i = 0; i < top; i++) {
    const at = core.wasm.recordAt(i);
    if (at === 0) continue;
    total++;
    const kept = protection(core, at, { standby, covered });
    if (kept === "hot") hot++;
    else if (kept === "log") log++;
  }
  return {
    name: options.name,
    role: replica.role,
    epoch: replica.epoch,
    protected: service.isReady && covered,
    connections: { total, hot, log, unprotected: total - hot - log },
    card: { state: service.card.state, seen: service.card.seen },
    appHangs: service.isUnhealthy || core.wasm.hangs() !== 0,
    lastTakeover: service.lastTakeover,
    counters: { ...readCounters(core), blockOctetsFree: core.wasm.blockOctetsFree() >>> 0 },
    arbitration: inWallTime(replica.arbitration),
    spareOf: replica.isSpare ? replica.partner : null,
    copies: copiesStatus(service, covered),
    speaks: replica.maySpeak(nowMs),
    judgements: service.judgements,
    recovery: service.recoverer?.status(nowMs) ?? null,
    store: service.disk?.status() ?? null,
  };
}

function copiesStatus(service: Service, covered: boolean): CopiesStatus {
  const { chain, further, options, replica, tellBelow } = service;
  const { partner, role } = replica;
  const standby = role === "primary" && replica.ready ? [partner!] : [];
  // While something is told once more, it is lacking.
  const ready = tellBelow > 0 ? [] : chain.told.filter((node) => {
    return further.get(node)?.isReady && replica.counted(node) !== 0 && replica.isInEpoch(node);
  });
  return {
    wanted: options.copies,
    held: role === "primary" && covered ? 1 + ready.length : 0,
    chain: role === "primary" ? [...standby, ...chain.told] : [],
  };
}

/**
 * One link; it is up while the peer's last beat there is no older than `silenceMs`, and the newest of
 * ours that has come back, which went both ways, no older than twice that.
 */
export function linkStatus(link: Link, nowMs: number, silenceMs: number): LoopLinkStatus {
  return {
    peer: link.peer,
    local: link.text.local,
    remote: link.text.remote,
    up: link.heardMs !== null && nowMs - link.heardMs <= silenceMs &&
      nowMs - link.provenMs <= 2 * silenceMs,
    rttUs: link.rttUs === null ? null : Math.round(link.rttUs),
  };
}

/** Every connection of a service. */
export function connectionsOf(service: Service, nowMs: number): LoopConnection[] {
  const list: LoopConnection[] = [];
  const { core, replica, options } = service;
  const { view, offsets } = core;
  const top = core.wasm.highWater();
  const standby = replica.role === "standby";
  const covered = isCovered(service);
  const now = nowMs >>> 0;
  for (let i = 0; i < top; i++) {
    const at = core.wasm.recordAt(i);
    if (at === 0) continue;
    const u32 = (field: Field) => view.getUint32(at + offsets[field], true);
    const ports = u32("ports");
    const phase = u32("phase");
    const followed = protection(core, at, { standby, covered: true });
    const kept = protection(core, at, { standby, covered });
    list.push({
      service: options.name,
      client: endpointText(core.bytes, at, options.addressBytes.length, ports & 0xffff),
      port: ports >>> 16,
      state: phase <= 2
        ? "handshake"
        : phase === 3
        ? "established"
        : phase === 4
        ? "closing"
        : "closed",
      protection: kept,
      reason: kept === "hot"
        ? null
        : followed === "hot"
        ? replica.hasSuccessor
          ? STANDBY_NOT_READY
          : replica.isFurther
          ? NO_HEIR
          : STANDBY_HEARS_NOTHING
        : REASONS[u32("reason")] ?? REASONS[u32("cold")] ?? null,
      note: (u32("flags") & RecordFlag.uncut) !== 0 ? NOT_AS_HINTED : null,
      bytesIn: Number(view.getBigUint64(at + offsets.bytesIn, true)),
      bytesOut: Number(view.getBigUint64(at + offsets.bytesOut, true)),
      ageMs: (now - u32("openedAt")) >>> 0,
      idleMs: (now - u32("seenAt")) >>> 0,
      numbers: Object.fromEntries(NUMBERS.map((field) => [field, u32(field)])),
    });
  }
  return list;
}

/**
 * "hot": the standby has the connection, and its server follows it and could serve it (covered); "log": whoever is
 * to serve it next can be played all that the client has said.
 */
function protection(
  core: Core,
  at: number,
  { standby, covered }: { standby: boolean; covered: boolean },
): LoopConnection["protection"] {
  const { view, offsets } = core;
  const u32 = (field: Field) => view.getUint32(at + offsets[field], true);
  const flags = u32("flags");
  const isLogged = (flags & RecordFlag.logged) !== 0;
  const isTold = u32("reason") === 0 && (standby || (flags & RecordFlag.hot) !== 0);
  const isFollowed = isTold && (!isLogged || u32("warm") !== 0);
  if (isFollowed && covered) return "hot";
  return isLogged ? "log" : "unprotected";
}

function endpointText(bytes: Uint8Array, at: number, length: number, port: number): string {
  if (length === 4) return `${bytes.slice(at, at + 4).join(".")}:${port}`;
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) {
    groups.push(((bytes[at + i] << 8) | bytes[at + i + 1]).toString(16));
  }
  return `[${groups.join(":").replace(/(^|:)0(:0)+(:|$)/, "::")}]:${port}`;
}

function inWallTime(arbitration: Arbitration): Arbitration {
  const { last } = arbitration;
  return last === null
    ? arbitration
    : { ...arbitration, last: { ...last, atMs: wallMs(last.atMs) } };
}
