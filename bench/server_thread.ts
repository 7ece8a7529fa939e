/**
 * server_thread.ts - a thread of the benchmark's server
 *
 * Theory of operation
 * A worker that is told one task, listens, and serves one connection after the other with blocking
 * calls; see wire.ts for what the kinds do. It never returns to its event loop: it ends with its process.
 */

import { closeAll, Memory, SystemError } from "../runtime/io/libc.ts";
import { parseHostPort } from "../runtime/io/address.ts";
import { listenTcp } from "../runtime/io/socket.ts";
import {
  acceptNext,
  PACE_MS,
  PACE_OCTETS,
  PIECE_LENGTH,
  PORTS,
  receive,
  receiveExactly,
  receiveLength,
  REQUEST_LENGTH,
  sendAll,
  sendLength,
} from "./wire.ts";

/** What a thread is told. */
export interface ThreadTask {
  /** What to serve. */
  kind: keyof typeof TALKS;
  /** Where to listen. */
  address: string;
}

const TALKS = {
  source: sendAsked,
  sink: takeAll,
  echo: sendBack,
  answer: answerAll,
  pace: sendPaced,
};
/** Nobody writes it: waiting for a change is to sleep. */
const clock = new Int32Array(new SharedArrayBuffer(4));

function sendAsked(fd: number, memory: Memory): void {
  sendOctets(fd, memory, receiveLength(fd) ?? 0);
}

function sendOctets(fd: number, memory: Memory, octets: number): void {
  for (let left = octets; left > 0;) {
    const length = Math.min(left, memory.bytes.length);
    sendAll(fd, memory.address, length);
    left -= length;
  }
}

/** A pause that lasts longer, because the process did not run, is not made up for. */
function sendPaced(fd: number, memory: Memory): void {
  for (let left = receiveLength(fd) ?? 0; left > 0; left -= PACE_OCTETS) {
    sendOctets(fd, memory, Math.min(left, PACE_OCTETS));
    Atomics.wait(clock, 0, 0, PACE_MS);
  }
}

function answerAll(fd: number, memory: Memory): void {
  const octets = receiveLength(fd) ?? 0;
  while (receiveExactly(fd, memory, REQUEST_LENGTH) === REQUEST_LENGTH) {
    sendOctets(fd, memory, octets);
  }
}

function takeAll(fd: number, memory: Memory): void {
  const length = receiveLength(fd);
  if (length === null) return;
  for (let received = 0; received < length;) {
    const count = receive(fd, memory);
    if (count === 0) return;
    received += count;
  }
  sendLength(fd, length);
}

function sendBack(fd: number, memory: Memory): void {
  for (;;) {
    const length = receive(fd, memory);
    if (length === 0) return;
    sendAll(fd, memory.address, length);
  }
}

/** Serves one connection after the other, for as long as the process lives. */
function serveOneByOne({ kind, address }: ThreadTask): void {
  const listener = listenTcp(parseHostPort(`${address}:${PORTS[kind]}`));
  const memory = new Memory(PIECE_LENGTH);
  for (;;) {
    const fd = acceptNext(listener);
    try {
      TALKS[kind](fd, memory);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      console.error(`${kind}: ${error.message}`);
    }
    closeAll(fd);
  }
}

globalThis.onmessage = ({ data }: MessageEvent<ThreadTask>) => serveOneByOne(data);
