/**
 * traffic.ts - clients, the server's program, and what every stream must be
 *
 * Theory of operation
 * A connection's kind and length follow from its plan, so the right answer is known beforehand. The
 * server's program is a function of its input, as Holdfast asks of it:
 *
 *   download   8 octets ask, `size` octets answer, the server ends
 *   upload     `size` octets in pieces, the client ends, 8 octets sum them up, the server ends
 *   echo       each piece comes back; the client ends, then the server
 *   ask        HTTP/1.1: each of `pieces` requests is answered by itself; the client ends, then the server
 *
 * The kernels' TCP is test/unit/endpoint.ts; its retransmission timer is here (RFC 6298: 200 ms as in
 * Linux, doubled; 2 s at most, so that simulated outages need not be waited out for minutes).
 */
import { Endpoint, type EndpointOptions } from "../unit/endpoint.ts";
import type { Clock } from "./clock.ts";

const RTO_MS = 200;
const RTO_MS_MAX = 2000;
/** A kernel gives a connection up after so many time-outs without an answer (tcp_retries2). */
const TRIES_MAX = 15;
const ASK_OCTETS = 8;
const SUM_OCTETS = 8;

/** What a connection does. */
export interface Plan {
  /** Client's port; connections are known by it. */
  port: number;
  /** What it is for. */
  kind: "download" | "upload" | "echo" | "ask";
  /** Octets of the long direction. */
  size: number;
  /** Pieces the client writes. */
  pieces: number;
  /** Pause before each, milliseconds. */
  pauseMs: number;
}

/** The octet at `at` of the stream that belongs to `port`. */
function octet(port: number, at: number): number {
  return (Math.imul(at + port, 0x9e3779b1) >>> 23) & 0xff;
}

/** The requests of one that asks, and where each answer comes from: its path. */
function requestsOf({ pieces, size }: Plan): string[] {
  const body = "b".repeat(Math.floor(size / pieces));
  return Array.from({ length: pieces }, (_, i) => {
    const head = `POST /${i} HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n`;
    return head + body;
  });
}

/** The answer to the request with this path. */
function answerTo(port: number, path: number): Uint8Array {
  const body = octets(port ^ path, (Math.imul(path + 1, port) >>> 3) % 3000);
  const head = `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n`;
  return joined([new TextEncoder().encode(head), body]);
}

function joined(parts: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** What the client writes. */
function inputOf(plan: Plan): Uint8Array {
  const { port, kind, size } = plan;
  if (kind === "ask") return new TextEncoder().encode(requestsOf(plan).join(""));
  const length = kind === "download" ? ASK_OCTETS : size;
  return octets(port, length);
}

function octets(port: number, length: number): Uint8Array {
  const stream = new Uint8Array(length);
  for (let at = 0; at < length; at++) stream[at] = octet(port, at);
  return stream;
}

/** How much a server can have said that has read so much; Infinity: all, and its end. */
export function mostSaid(plan: Plan, read: number): number {
  const { port, kind, size } = plan;
  if (kind === "ask") {
    const requests = requestsOf(plan);
    let said = 0;
    for (let i = 0, end = 0; i < requests.length; i++) {
      end += requests[i].length;
      if (end > read) return said;
      said += answerTo(port, i).length;
    }
    return read > requests.join("").length ? Infinity : said;
  }
  if (kind === "download") return read >= ASK_OCTETS ? Infinity : 0;
  if (kind === "echo") return read > size ? Infinity : read;
  return read > size ? Infinity : 0;
}

function sumUp(octets: Uint8Array): Uint8Array {
  let sum = 0x811c9dc5;
  for (const each of octets) sum = Math.imul(sum ^ each, 0x01000193) >>> 0;
  const view = new DataView(new ArrayBuffer(SUM_OCTETS));
  view.setUint32(0, sum);
  view.setUint32(4, octets.length);
  return new Uint8Array(view.buffer);
}

/** One kernel's end of a connection, with its timer. */
export class Socket {
  /** Its TCP. */
  readonly endpoint: Endpoint;
  readonly #clock: Clock;
  readonly #send: (packet: Uint8Array) => void;
  #rtoMs = RTO_MS;
  #tries = 0;
  #timer = 0;

  /** Makes a closed one whose packets go to `send`. */
  constructor(options: EndpointOptions, clock: Clock, send: (packet: Uint8Array) => void) {
    this.endpoint = new Endpoint(options);
    this.#clock = clock;
    this.#send = send;
  }

  /** Takes a packet from the wire, and answers. */
  receive(packet: Uint8Array): void {
    this.endpoint.receive(packet);
    this.#rtoMs = RTO_MS;
    this.#tries = 0;
    this.flush();
  }

  /** Sends what is due; to be called after every write. */
  flush(): void {
    for (const packet of this.endpoint.take()) this.#send(packet);
    const timer = ++this.#timer;
    if (!this.#isWaiting()) return;
    this.#clock.after(this.#rtoMs, () => {
      if (timer !== this.#timer || !this.#isWaiting()) return;
      this.#rtoMs = Math.min(2 * this.#rtoMs, RTO_MS_MAX);
      if (this.endpoint.state === "open" && ++this.#tries > TRIES_MAX) return;
      this.endpoint.timeout();
      this.flush();
    });
  }

  /** Its host is no more. */
  stop(): void {
    this.#timer = -1;
    this.endpoint.state = "closed";
  }

  #isWaiting(): boolean {
    const { state, isDrained } = this.endpoint;
    return state === "synSent" || state === "synReceived" || (state === "open" && !isDrained);
  }
}

/** Lets the server's program run behind `server`. `twist` makes its answers depend on the host. */
export function runProgram(server: Socket, { plan, expected }: Client, twist = 0): void {
  const { endpoint } = server;
  const said = twist === 0 ? expected : expected.map((each) => each ^ twist);
  let read = 0;
  let text = "";
  endpoint.onOctets = (octets) => {
    if (plan.kind === "ask") {
      // It may begin with any of the requests: what came before was cut.
      text += new TextDecoder().decode(octets);
      const request = /^POST \/(\d+) .*\r\n.*\r\nContent-Length: (\d+)\r\n\r\n/;
      for (let found = request.exec(text); found !== null; found = request.exec(text)) {
        const end = found[0].length + Number(found[2]);
        if (text.length < end) break;
        endpoint.write(answerTo(plan.port, Number(found[1])).map((each) => each ^ twist));
        text = text.slice(end);
      }
      return;
    }
    const before = read;
    read += octets.length;
    if (plan.kind === "echo") endpoint.write(said.subarray(before, read));
    else if (plan.kind === "download" && before < ASK_OCTETS && read >= ASK_OCTETS) {
      endpoint.write(said);
      endpoint.end();
    }
  };
  endpoint.onEnd = () => {
    if (plan.kind === "upload") endpoint.write(sumUp(endpoint.received));
    if (plan.kind !== "download") endpoint.end();
  };
}

/** One client's connection and how it goes. */
export class Client {
  /** What it does. */
  readonly plan: Plan;
  /** Its kernel's end. */
  readonly socket: Socket;
  /** Its first sequence number. */
  readonly iss: number;
  /** What it writes. */
  readonly input: Uint8Array;
  /** What it must read. */
  readonly expected: Uint8Array;
  /** How much of that has been compared. */
  compared = 0;
  /** Why it may be lost without fault of ours (DESIGN 1); null: it must not. */
  excuse: string | null = null;
  /** Ended well: all was read, the end too, and all that was written was acknowledged. */
  done = false;

  /** Prepares a connection. */
  constructor(plan: Plan, socket: Socket, iss: number) {
    this.plan = plan;
    this.socket = socket;
    this.iss = iss;
    this.input = inputOf(plan);
    this.expected = plan.kind === "download"
      ? octets(~plan.port, plan.size)
      : plan.kind === "echo"
      ? this.input
      : plan.kind === "ask"
      ? joined(requestsOf(plan).map((_, i) => answerTo(plan.port, i)))
      : sumUp(this.input);
  }

  /** Connects, and writes piece by piece. */
  start(clock: Clock): void {
    const { plan, socket, input } = this;
    const { endpoint } = socket;
    endpoint.connect();
    socket.flush();
    const piece = Math.ceil(input.length / plan.pieces);
    const write = (at: number) => {
      if (endpoint.state === "reset") return;
      endpoint.write(input.subarray(at, at + piece));
      if (at + piece >= input.length) {
        if (plan.kind !== "download") endpoint.end();
      } else clock.after(plan.pauseMs, () => write(at + piece));
      socket.flush();
    };
    endpoint.onEnd = () => {
      if (plan.kind === "download") endpoint.end();
    };
    clock.after(plan.pauseMs, () => write(0));
  }
}
