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
 * prefix of RFC 6666), port 9.
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
const PORT: u32 = 9;
const SYN_WINDOW: u32 = 64240;

/** A record for `make()`, which needs no more than addresses and ports. */
const CLIENT: usize = memory.data(512, 16);

function client(port: u32): Connection {
  const c = changetype<Connection>(CLIENT);
  const v4 = state().family == 4;
  c.c0 = v4 ? CLIENT_V4 : 0x00000001;
  c.c1 = 0;
  c.c2 = 0;
  c.c3 = v4 ? 0 : 0x01000000;
  c.ports = PORT | (port << 16);
  return c;
}

/** Asks whether anybody listens at `port`; without room in this pass nothing is asked. */
export function probe(port: u32): void {
  const s = state();
  if (!hasRoom()) return;
  s.probeAnswer = Listening.Unknown;
  const packet = make(client(port), APP, SYN, s.now << 8, 0, SYN_WINDOW, 0);
  toServer(packet, complete(packet, 0, 65535));
}

/** Takes a packet to the client that does not exist; true when it was one. */
export function takeAnswer(v: View): bool {
  const s = state();
  if (v.destinationPort != PORT) return false;
  const c = client(v.sourcePort);
  const to = v.ip + (v.family == 4 ? 16 : 24);
  if (load<u32>(to) != c.c0) return false;
  if (v.family == 6 && (load<u64>(to, 4) != 0 || load<u32>(to, 12) != c.c3)) return false;
  if ((v.flags & (SYN | ACK)) == (SYN | ACK)) {
    s.probeAnswer = Listening.Yes;
    s.probeTail = s.disputedTail;
    if (hasRoom()) {
      const packet = make(c, APP, RST, v.ack, 0, 0, 0);
      toServer(packet, complete(packet, 0, 65535));
    }
  } else if (v.flags & RST) s.probeAnswer = Listening.No;
  return true;
}
