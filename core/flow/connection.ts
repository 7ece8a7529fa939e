/**
 * connection.ts - the connection record
 *
 * One record serves every mode and role. Numbers of the client's own stream ("input") are the
 * client's and are never translated. Numbers of the server's stream ("output") are kept in client
 * space: server space = client space - issDelta, and only the leg to the local kernel uses it.
 *
 *   input, the client's numbers                        output, client space
 *   irs        the client's ISS                        iss       ISS.client
 *              both as of the last place where the log was cut (segment/cutting.ts), if it was
 *   rcvNxt     next octet of the stream we lack;       sndNxt    next octet the local kernel
 *              a FIN counts once it is in order                  will send (its SND.NXT)
 *   finSeq     where the client's FIN stands           cliAck    what the client has acknowledged
 *   finAck     cliAck when it said it
 *   legAck     local kernel's RCV.NXT, as it says      legUna    what we have acknowledged to the
 *   legNxt     feeder's SND.NXT towards the kernel               local kernel (feeder)
 *   legEdge    right edge the local kernel gives       parkBase  first octet of the parked flight
 *   ackShown   highest ACK the client has seen         parkEnd   end of it
 *   edgeShown  highest right edge it has seen          srvFin    where the server's FIN stands
 *   peerNxt    the standby's rcvNxt (committed)        sndShown  highest octet a client was sent
 *   peerEdge   right edge the standby will store       peerSnd   where the other's server stands
 *   (of a standby both are about the next replica of the chain)
 *
 * A connection is "direct" when client segments pass through to the local kernel with no more than
 * a rewrite. It is "fed" while we stand between them: always on a standby, and on a primary after a
 * takeover until the local server has caught up in both directions.
 */
import { state } from "../state";

/** Where the client's handshake and teardown stand. */
export const enum Phase {
  Free = 0,
  /** SYN seen. */
  Syn,
  /** SYN-ACK seen: ISS.client is known. */
  Half,
  /** The client has acknowledged the SYN-ACK. */
  Open,
  /** A FIN was seen on either side. */
  Closing,
  /** Both FINs are acknowledged, or reset. */
  Closed,
}

/** Where the leg to the local kernel stands. */
export const enum Leg {
  None = 0,
  SynSent,
  /** Its SYN-ACK came: issDelta is known. */
  SynAck,
  Open,
  /** Reset, refused, or given up. */
  Dead,
  /** Given up, but not reset yet: our server hangs (segment/lag.ts). */
  Hung,
}

/** Why a connection is not protected; shown to people, so the order is part of the interface. */
export const enum Reason {
  None = 0,
  NoStandby,
  StandbyLost,
  Md5,
  AuthOption,
  StandbyRefused,
  StandbyReset,
  StandbyDiffers,
  StandbyTableFull,
  LogMemory,
  TooManyRanges,
  LegStalled,
  /** The standby has the record, but its own server has not answered the SYN yet. */
  Pending,
  StandbySilent,
  StandbyEnded,
  ServerEnded,
  /** Both servers have the connection, and wrote different octets. */
  Diverged,
  /** Log mode: the client has sent more than its log may hold. */
  LogFull,
  /** Log mode: a server that was played the log answered otherwise than the one before it. */
  ReplayDiffers,
  StandbyHangs,
  /** Log mode: the disk that kept what its client has said takes no more. */
  StoreLost,
  /** A standby that came later is being told all of it, and its server to come as far (segment/telling.ts). */
  Joining,
  /** Hot mode: more was said than is kept for a standby that comes later. */
  NotKept,
}

/** Where our server was found hanging (segment/lag.ts). */
export const enum Stands {
  Nowhere = 0,
  Writing,
  Reading,
}

export const enum Flag {
  SackOk = 1,
  TsOk = 2,
  WsOk = 4,
  /** Protected: the standby has the record. */
  Hot = 8,
  Dirty = 16,
  Pump = 32,
  Timer = 64,
  /** We stand between the client and the local kernel. */
  Fed = 128,
  ClientFin = 256,
  ServerFin = 512,
  /** The feeder owes the local kernel an ACK even if nothing changed. */
  ForceAck = 1024,
  /** The client is owed an ACK. */
  AckClient = 2048,
  ClientReset = 4096,
  /** Log mode: the client has acknowledged the FIN of a server before ours. */
  EndHeard = 8192,
  /** Hot mode: the input log holds the client's stream from its first octet, for a standby that comes later. */
  Kept = 32768,
  /** Standby: all there was to tell of it when we came was told. */
  Brought = 65536,
  /** The client's window or timestamp changed: worth an ACK to the local kernel. */
  WindowMoved = 131072,
  ServerReset = 262144,
  /** Taken over: the client may have acknowledged octets that the old primary's server said first. */
  Taken = 524288,
  /** The other replica's server has ended its stream, at peerSnd. */
  PeerFin = 1048576,
  /** Our server's FIN: the client is told when the standby's server has ended too (ending.ts). */
  FinHeld = 2097152,
  /** Our server's RST, likewise. */
  ResetHeld = 4194304,
  /** The input log holds the client's stream from its first octet: another server can be played it. */
  Logged = 16384,
  /** The primary's server is gone for this connection: nobody stands behind us after a switch. */
  PeerGone = 8388608,
  /** Waits in the queue of ends that one server has said alone. */
  Disputed = 16777216,
  /** Our server's end was judged to be its own death. */
  Judged = 33554432,
  /** Primary: our kernel refused the SYN. Standby: the record only asks whether ours would too. */
  Asked = 67108864,
  /** The output is digested, and compared with the other replica's. */
  Digested = 134217728,
  /** Its octets are not the other replica's: to be reset when we speak. */
  Diverged = 268435456,
  /** Taken over before our server had come as far as the old primary has told. */
  Unproven = 536870912,
  /** Taken over, and not sure whether its client has octets that nobody has told us of. */
  Unheard = 1073741824,
  /** With a hint: its streams are not what that says, so its log is not cut (segment/cutting.ts). */
  Uncut = -2147483648,
}

@unmanaged
export class Connection {
  /** Client address, network byte order; IPv4 in the first word. */
  c0: u32 = 0;
  c1: u32 = 0;
  c2: u32 = 0;
  c3: u32 = 0;
  /** Client port | service port << 16, host byte order. */
  ports: u32 = 0;
  hash: u32 = 0;
  flags: u32 = 0;
  phase: i32 = 0;
  leg: i32 = 0;
  reason: i32 = 0;
  tries: u32 = 0;
  generation: u32 = 0;
  /** MSS the client announced (what it can receive). */
  cliMss: u32 = 0;
  /** MSS the client was told. */
  srvMss: u32 = 0;
  cliWs: u32 = 0;
  /** The server's window scale as the client knows it. */
  srvWs: u32 = 0;
  /** The local kernel's own. */
  legWs: u32 = 0;
  /** ECE and CWR of the client's SYN. */
  synFlags: u32 = 0;
  /** Out-of-order ranges this connection holds. */
  rangeCount: u32 = 0;
  // Input.
  irs: u32 = 0;
  rcvNxt: u32 = 0;
  finSeq: u32 = 0;
  /** What the client had acknowledged when it said its FIN. */
  finAck: u32 = 0;
  legAck: u32 = 0;
  legNxt: u32 = 0;
  legEdge: u32 = 0;
  ackShown: u32 = 0;
  edgeShown: u32 = 0;
  peerNxt: u32 = 0;
  peerEdge: u32 = 0;
  edgeReported: u32 = 0;
  /** The log holds nothing before this octet. */
  logFrom: u32 = 0;
  /** First out-of-order range (index + 1). */
  range: u32 = 0;
  // Output.
  iss: u32 = 0;
  issDelta: u32 = 0;
  sndNxt: u32 = 0;
  sndShown: u32 = 0;
  /** Next octet that the other replica's server will write, as far as we know. */
  peerSnd: u32 = 0;
  /** The highest octet that the server before ours can have shown the client. */
  saidMost: u32 = 0;
  takenAtMs: u32 = 0;
  cliAck: u32 = 0;
  legUna: u32 = 0;
  srvFin: u32 = 0;
  parkBase: u32 = 0;
  parkEnd: u32 = 0;
  /** The client's window field, unscaled. */
  cliWnd: u32 = 0;
  /** MAX.SND.WND of RFC 5961: the largest window the client has shown, in octets. */
  maxWnd: u32 = 0;
  // Timestamps (RFC 7323): client TSval as is; server TSval in client space = own + tsDelta.
  cliTs: u32 = 0;
  /** Newest TSval seen in the window: what the local kernel may have as its own TS.Recent. */
  cliTsNew: u32 = 0;
  tsDelta: u32 = 0;
  legTs: u32 = 0;
  legTsAt: u32 = 0;
  /** Newest TSval the client was shown. */
  tsShown: u32 = 0;
  /** The most that what it was shown has been ahead of State.now: it may have seen tsClock + now. */
  tsClock: u32 = 0;
  // Octets held: the input log and the parked flight (see stream/chain.ts).
  logHead: u32 = 0;
  logTail: u32 = 0;
  logSeq: u32 = 0;
  logTailSeq: u32 = 0;
  logCursor: u32 = 0;
  logCursorSeq: u32 = 0;
  logHole: u32 = 0;
  logHoleSeq: u32 = 0;
  parkHead: u32 = 0;
  parkTail: u32 = 0;
  parkSeq: u32 = 0;
  parkTailSeq: u32 = 0;
  parkCursor: u32 = 0;
  parkCursorSeq: u32 = 0;
  parkHole: u32 = 0;
  parkHoleSeq: u32 = 0;
  // A SYN that may start a new connection on this tuple.
  synIss: u32 = 0;
  synOptions: u32 = 0;
  synTs: u32 = 0;
  synWindow: u32 = 0;
  // Time.
  timerAt: u32 = 0;
  rtoMs: u32 = 0;
  openedAt: u32 = 0;
  seenAt: u32 = 0;
  /** When our server's kernel last said something of it, in milliseconds. */
  spokeAt: u32 = 0;
  // Lists (index + 1).
  nextDirty: u32 = 0;
  nextPump: u32 = 0;
  nextTimer: u32 = 0;
  prevTimer: u32 = 0;
  nextFree: u32 = 0;
  nextDisputed: u32 = 0;
  /** Segment of the disk's log that its OPEN lies in (`State.segment`). */
  toldIn: u32 = 0;
  /**
   * Segment of its OPEN of late, while it is not told again to its end: of the primary who began that, or, should
   * that one be gone, of the next one too, whose messages follow in the same log; else 0.
   */
  toldAgainIn: u32 = 0;
  /** Since when one server alone has ended. */
  disputedAt: u32 = 0;
  // Judgement of servers that stand still (segment/lag.ts).
  /** Largest window our server's kernel has shown, in octets. */
  legMax: u32 = 0;
  /** About where the other replica's server has read to. */
  peerRead: u32 = 0;
  /** outputEnd(), legEdge and legAck at the last look; cliAck instead of the last where nobody follows. */
  scanSnd: u32 = 0;
  scanEdge: u32 = 0;
  scanAck: u32 = 0;
  /** Standby: 1 when the next replica of the chain could go on from the connection too. */
  next: u32 = 0;
  /**
   * Logged: 1 while a standby's server is where it has to be to go on at once. On a primary its standby's, on a
   * standby ours, as the primary has been told.
   */
  warm: u32 = 0;
  /** Logged: `Reason` why that server does not follow the connection, which is kept as in log mode; None if it is to. */
  cold: i32 = 0;
  /** How long our server has stood still in each direction, in milliseconds. */
  writeMs: u32 = 0;
  readMs: u32 = 0;
  /**
   * Where the other replica's server was when that began, in sequence numbers of each direction; where nobody
   * follows, where ours was when it was last seen to move.
   */
  writeMark: u32 = 0;
  readMark: u32 = 0;
  /** `Stands`: until it is known to live. */
  stands: u32 = 0;
  /** From when on it lives if it moves there, in milliseconds. */
  provesAt: u32 = 0;
  // Statistics, 64 bit.
  bytesIn: u64 = 0;
  /** Octets (and FIN) that the present server has written: sndNxt = iss + 1 + bytesOut - bytesCut + ahead. */
  bytesOut: u64 = 0;
  /** Of these, those before iss + 1. */
  bytesCut: u64 = 0;
  // Replay (segment/recovery.ts), 64 bit, as a stream may be longer than sequence numbers reach.
  /** Octets of output up to sndShown. */
  outShown: u64 = 0;
  /** Octets that the server is still to write before sndNxt moves. */
  ahead: u64 = 0;
}

/** Octets of one record. */
export const RECORD_SIZE: u32 = offsetof<Connection>();

/** The record at `index`. */
export function at(index: u32): Connection {
  return changetype<Connection>(state().records + <usize> index * RECORD_SIZE);
}

/** The index of a record. */
export function indexOf(c: Connection): u32 {
  return <u32> ((changetype<usize>(c) - state().records) / RECORD_SIZE);
}

/** True when all of `flag` is set. */
export function has(c: Connection, flag: u32): bool {
  return (c.flags & flag) == flag;
}

/** True when another server could be played the client's stream from our input log. */
export function isStored(c: Connection): bool {
  return (c.flags & (Flag.Logged | Flag.Kept)) != 0;
}

/** True when the standby has a record of it and is to hear of its end. */
export function isTold(c: Connection): bool {
  return has(c, Flag.Hot) || c.reason == Reason.Diverged;
}

/** True while the next pieces that are told are of this one's log (segment/telling.ts). */
export function isBeingTold(c: Connection): bool {
  const s = state();
  return s.telling != 0 && s.tellNext == indexOf(c) && s.tellGeneration == c.generation;
}

/** True when both sides have finished, with FIN: its client may have forgotten it, and is told nothing unless it asks. */
export function isOver(c: Connection): bool {
  return c.phase == Phase.Closed && (c.flags & (Flag.ClientReset | Flag.ServerReset)) == 0;
}

/** True when the local server has accepted the connection and not ended it. */
export function isAccepted(c: Connection): bool {
  return c.leg == Leg.SynAck || c.leg == Leg.Open;
}
