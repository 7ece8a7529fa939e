/**
 * probe.ts - does anybody listen?
 *
 * Theory of operation
 * A kernel that closes a dead program's connections closes its listeners too. So a SYN from a client
 * that does not exist is played to our kernel: a SYN-ACK says that the port is served, and is answered
 * with RST before any program sees the connection; a RST says that nobody is there. The device keeps
 * order, so ends that came before the SYN-ACK were said while somebody still listened.
 *
 * The client that does not exist is 192.0.0.8 (the dummy address of RFC 7600) or 100::1 (the discard
 * prefix of RFC 6666). Each question comes from another port of it, and only its own answer counts: what
 * was asked before may be answered late, of a server that has died since. A question that is repeated is
 * the same SYN: to another one a kernel that has answered the first, and has not heard our RST yet, says
 * RST itself (RFC 9293 section 3.10.7.4, SYN-RECEIVED), whoever listens.
 *
 * Limits: a question's port is used again QUESTIONS questions later.
 */
import { state } from "../state";
import { ACK, RST, SYN, View } from "../wire/packet";
import { Connection } from "../flow/connection";
import { APP, complete, hasRoom, make, toServer } from "./output";

/** What a probe found: `probeAnswer` in state.ts. */
export const enum Listening {
  Unknown = 0,
  Yes,
  No,
}

/** 192.0.0.8 in memory order. */
const CLIENT_V4: u32 = 0x080000c0;
/** Ports of the client: from here to the last. */
const PORT_FIRST: u32 = 1024;
const QUESTIONS: u32 = 65536 - PORT_FIRST;
const SYN_WINDOW: u32 = 64240;

/** A record for `make()`, which needs no more than addresses and ports. */
const CLIENT: usize = memory.data(512, 16);

function client(clientPort: u32, port: u32): Connection {
  const c = changetype<Connection>(CLIENT);
  const v4 = state().family == 4;
  c.c0 = v4 ? CLIENT_V4 : 0x00000001;
  c.c1 = 0;
  c.c2 = 0;
  c.c3 = v4 ? 0 : 0x01000000;
  c.ports = clientPort | (port << 16);
  return c;
}

/**
 * Asks whether anybody listens at `port`; `again` repeats the last question, which has no answer yet.
 * Without room in this pass nothing is said.
 */
export function probe(port: u32, again: bool): void {
  const s = state();
  if (!again || !s.probeAsked) {
    s.probeAnswer = Listening.Unknown;
    s.probePort = port;
    s.probeIss = s.now << 8;
    s.probeAsked++;
  }
  if (!hasRoom()) return;
  const packet = make(client(clientPort(), s.probePort), APP, SYN, s.probeIss, 0, SYN_WINDOW, 0);
  toServer(packet, complete(packet, 0, 65535));
}

/** The port that the last question came from. */
function clientPort(): u32 {
  return PORT_FIRST + state().probeAsked % QUESTIONS;
}

/** Takes a packet to the client that does not exist; true when it was one. */
export function takeAnswer(v: View): bool {
  const s = state();
  const c = client(v.destinationPort, v.sourcePort);
  const to = v.ip + (v.family == 4 ? 16 : 24);
  if (load<u32>(to) != c.c0) return false;
  if (v.family == 6 && (load<u64>(to, 4) != 0 || load<u32>(to, 12) != c.c3)) return false;
  const synAck = (v.flags & (SYN | ACK)) == (SYN | ACK);
  if (synAck && hasRoom()) {
    const packet = make(c, APP, RST, v.ack, 0, 0, 0);
    toServer(packet, complete(packet, 0, 65535));
  }
  const answered = v.destinationPort == clientPort() && v.sourcePort == s.probePort &&
    v.ack == s.probeIss + 1;
  if (!answered || s.probeAnswer != Listening.Unknown) return true;
  if (synAck) {
    s.probeAnswer = Listening.Yes;
    s.probeTail = s.disputedTail;
  } else if (v.flags & RST) s.probeAnswer = Listening.No;
  return true;
}
