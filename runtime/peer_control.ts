/**
 * peer_control.ts - the control connection between two nodes: TLS 1.3, both sides proven
 *
 * Theory of operation
 * Main threads talk to each other over TLS with certificates of the cluster's authority on both sides; the
 * peer's certificate must carry the peer's name. Over it the secrets for beats and channels are agreed on and
 * renewed (protocol/agreement.ts), and handed to the data plane.
 *
 *   port        one above the link's: 7946 for beats and channels, 7947 for control
 *   who calls   the node whose name sorts first, over its links in turn; the other listens on all
 *   framing     | length u16be | one message |
 *
 * The data plane needs the connection for nothing but fresh secrets: while it is down, the last ones go on
 * being used. It is made again at once, because a peer that has just started cannot be heard before; that is
 * also why a silent connection is given up soon.
 *
 * The files are read again for every call, and on the listening side when one of them has changed.
 *
 * Limits: CONNECT_MS for TCP, HANDSHAKE_MS for TLS, SILENT_MS without a word; PENDING_MAX handshakes at a
 * time; a newer connection of the peer takes the place of the older.
 * Sources: RFC 8446; node:tls (Deno.listenTls cannot ask for a client's certificate).
 */
import type { Buffer } from "node:buffer";
import net from "node:net";
import tls from "node:tls";
import { type Endpoint, formatHostPort, parseHostPort } from "./io/address.ts";
import { type IdentityFiles, loadIdentity, nodeOf, SERVER_NAME } from "./identity.ts";
import type { KeyCommand } from "./loop/messages.ts";
import {
  Agreement,
  type AgreementEffect,
  type ControlMessage,
  decodeControl,
  encodeControl,
} from "./protocol/agreement.ts";
import { ENVELOPE_MAX } from "./protocol/message.ts";
import type { Refusals } from "./refusals.ts";
import type { Logger } from "./log.ts";

/** How far above a link's port its control port is. */
export const CONTROL_PORT_OFFSET = 1;

const CONNECT_MS = 250;
const HANDSHAKE_MS = 3000;
/** Pause between calls when nobody answers, and when somebody does but we do not come together. */
const RETRY_MS = 100;
const REFUSED_MS = 500;
const TICK_MS = 250;
/** A connection on which nothing was heard for so long is given up. */
const SILENT_MS = 1500;
/** How often the listening side looks whether its files have changed. */
const RELOAD_MS = 10_000;
const PENDING_MAX = 16;
/** Octets that may wait to be understood. */
const INBOX_MAX = 4 * ENVELOPE_MAX;

/** What a control connection needs. */
export interface PeerControlOptions {
  /** This node's name. */
  node: string;
  /** The peer. */
  peer: { name: string; links: readonly { local: string; remote: string }[] };
  /** Certificates. */
  files: IdentityFiles;
  /** A secret is renewed when it is that old, milliseconds. */
  renewMs: number;
  /** Takes a step of a key's life to the data plane; resolves when it is done there. */
  key: (command: KeyCommand) => Promise<unknown>;
  /** Takes what happens. */
  log: Logger;
  /** Counts strangers. */
  refusals: Refusals;
}

/** The control port's endpoint beside a link's. */
export function controlEndpoint(link: string): Endpoint {
  const { address, port } = parseHostPort(link);
  return { address, port: port + CONTROL_PORT_OFFSET };
}

/** What both directions of TLS are set up with. */
type Context = tls.SecureContextOptions & { requestCert: true; rejectUnauthorized: true };

/** Keeps the control connection to the peer. */
export class PeerControl {
  readonly #options: PeerControlOptions;
  readonly #calls: boolean;
  readonly #servers: tls.Server[] = [];
  #session: Session | null = null;
  #attempt = 0;
  #isStopped = false;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;
  #reloadTimer: ReturnType<typeof setInterval> | undefined;
  /** What TLS is set up with, and the times of the files it was read from. */
  #loaded: { stamp: string; context: Context } | null = null;
  /** Why the last call failed: a lasting reason is logged once. */
  #failure = "";

  /** Nothing is opened yet. */
  constructor(options: PeerControlOptions) {
    this.#options = options;
    this.#calls = options.node < options.peer.name;
  }

  /** Whether a control connection stands and a secret was agreed on over it. */
  get isUp(): boolean {
    return this.#session !== null && this.#session.isAgreed;
  }

  /**
   * Listens, or begins to call.
   *
   * @throws {Error} When the certificates cannot be used, or a port cannot be had.
   */
  async start(): Promise<void> {
    const { node, files, log } = this.#options;
    const { warnings } = await loadIdentity(node, files);
    for (const warning of warnings) log.warn("certificate", { warning });
    if (this.#calls) this.#callSoon(0);
    else await this.#listen();
  }

  /** The data plane has sealed so much that a new secret is due. */
  noteWorn(): void {
    this.#session?.noteWorn();
  }

  /** Closes everything. */
  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#retryTimer);
    clearInterval(this.#reloadTimer);
    for (const server of this.#servers) server.close();
    this.#session?.close("stopping");
  }

  // Listening -----------------------------------------------------------------------------------

  async #listen(): Promise<void> {
    const { peer } = this.#options;
    const context = await this.#context();
    for (const link of peer.links) {
      const server = tls.createServer(
        { ...context, handshakeTimeout: HANDSHAKE_MS },
        (socket) => this.#accept(socket),
      );
      this.#servers.push(server);
      server.maxConnections = PENDING_MAX;
      server.on("tlsClientError", (error: Error) => this.#refuse(error.message));
      await listening(server, controlEndpoint(link.local));
    }
    this.#reloadTimer = setInterval(() => this.#reloadIfChanged(), RELOAD_MS);
  }

  /** From the files as they are now; they are read again when one has changed. */
  async #context(): Promise<Context> {
    const { node, files } = this.#options;
    const stats = await Promise.all(
      [files.ca, files.cert, files.key].map((file) => Deno.stat(file)),
    );
    const stamp = stats.map(({ mtime }) => mtime?.getTime()).join();
    if (this.#loaded?.stamp === stamp) return this.#loaded.context;
    const { ca, cert, key } = await loadIdentity(node, files);
    const context: Context = {
      ca,
      cert,
      key,
      minVersion: "TLSv1.3",
      requestCert: true,
      rejectUnauthorized: true,
    };
    this.#loaded = { stamp, context };
    return context;
  }

  async #reloadIfChanged(): Promise<void> {
    const before = this.#loaded?.context;
    try {
      const context = await this.#context();
      if (context === before) return;
      for (const server of this.#servers) server.setSecureContext(context);
      this.#options.log.info("certificates read again");
    } catch (error) {
      this.#options.log.warn("certificates not read again", { why: (error as Error).message });
    }
  }

  #accept(socket: tls.TLSSocket): void {
    const why = this.#whyNotPeer(socket);
    if (why === null) return this.#begin(socket);
    this.#refuse(why);
    socket.on("error", () => {});
    socket.destroy();
  }

  #refuse(why: string): void {
    this.#options.refusals.note("control", { why }, performance.now());
  }

  /** Null when the other end has proven to be the peer. */
  #whyNotPeer(socket: tls.TLSSocket): string | null {
    const { peer } = this.#options;
    if (!socket.authorized) return `certificate not accepted: ${socket.authorizationError}`;
    if (socket.getProtocol() !== "TLSv1.3") return `protocol ${socket.getProtocol()}`;
    const name = nodeOf(socket.getPeerCertificate().subjectaltname);
    return name === peer.name
      ? null
      : `its certificate is for "${name ?? "no node"}", expected "${peer.name}"`;
  }

  // Calling -------------------------------------------------------------------------------------

  #callSoon(afterMs: number): void {
    if (this.#isStopped) return;
    this.#retryTimer = setTimeout(() => this.#call(), afterMs);
  }

  async #call(): Promise<void> {
    const { links } = this.#options.peer;
    const link = links[this.#attempt++ % links.length];
    const place = formatHostPort(controlEndpoint(link.remote));
    let raw: net.Socket;
    let context: Context;
    try {
      context = await this.#context();
      raw = await connectTcp(link);
    } catch (error) {
      return this.#failed(place, error as Error, RETRY_MS);
    }
    try {
      const socket = tls.connect({ ...context, socket: raw, servername: SERVER_NAME });
      await inTime(socket, "secureConnect", HANDSHAKE_MS);
      const why = this.#whyNotPeer(socket);
      if (why === null && !this.#isStopped) return this.#begin(socket);
      socket.destroy();
      if (why !== null) throw new Error(why);
    } catch (error) {
      this.#refuse((error as Error).message);
      this.#failed(place, error as Error, REFUSED_MS);
    }
  }

  /** Calls again later; a reason that lasts is logged once. */
  #failed(place: string, error: Error, afterMs: number): void {
    const why = error.message;
    if (why !== this.#failure) this.#options.log.info("no control connection", { to: place, why });
    this.#failure = why;
    this.#callSoon(afterMs);
  }

  #begin(socket: tls.TLSSocket): void {
    this.#session?.close("a newer connection takes its place");
    const session = new Session(socket, {
      calls: this.#calls,
      renewMs: this.#options.renewMs,
      peer: this.#options.peer.name,
      key: this.#options.key,
      log: this.#options.log,
      onAgreed: () => this.#failure = "",
      onEnd: (why) => {
        if (this.#session === session) this.#session = null;
        if (session.isAgreed || !this.#calls) {
          this.#options.log.info("control connection closed", { why });
        }
        if (!this.#calls) return;
        if (session.isAgreed) this.#callSoon(RETRY_MS);
        else this.#failed(this.#options.peer.name, new Error(why), REFUSED_MS);
      },
    });
    this.#session = session;
  }
}

interface SessionOptions {
  calls: boolean;
  renewMs: number;
  peer: string;
  key: (command: KeyCommand) => Promise<unknown>;
  log: Logger;
  onAgreed: () => void;
  onEnd: (why: string) => void;
}

/** One control connection. */
class Session {
  readonly #socket: tls.TLSSocket;
  readonly #options: SessionOptions;
  readonly #agreement: Agreement;
  readonly #timer: ReturnType<typeof setInterval>;
  #inbox = new Uint8Array();
  #heardMs = performance.now();
  /** Effects are performed one after the other. */
  #work: Promise<void> = Promise.resolve();
  #isClosed = false;
  #agreed: number | null = null;

  constructor(socket: tls.TLSSocket, options: SessionOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#agreement = new Agreement({
      proposes: options.calls,
      renewMs: options.renewMs,
      random: () => crypto.getRandomValues(new Uint8Array(32)),
    });
    socket.setNoDelay(true);
    socket.on("data", (octets: Buffer) => this.#receive(octets));
    socket.on("error", (error: Error) => this.close(error.message));
    socket.on("close", () => this.close("the peer closed it"));
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#perform(this.#agreement.handleTime(performance.now()));
  }

  get isAgreed(): boolean {
    return this.#agreed !== null;
  }

  noteWorn(): void {
    this.#perform(this.#agreement.handleWorn(performance.now()));
  }

  close(why: string): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#socket.destroy();
    this.#options.onEnd(why);
  }

  #tick(): void {
    const nowMs = performance.now();
    if (nowMs - this.#heardMs > SILENT_MS) return this.close(`silent for ${SILENT_MS} ms`);
    this.#send({ kind: "ping" });
    this.#perform(this.#agreement.handleTime(nowMs));
  }

  #receive(octets: Buffer): void {
    const nowMs = performance.now();
    this.#heardMs = nowMs;
    const all = new Uint8Array(this.#inbox.length + octets.length);
    all.set(this.#inbox);
    all.set(octets, this.#inbox.length);
    if (all.length > INBOX_MAX) return this.close("it says too much at once");
    let at = 0;
    try {
      while (all.length - at >= 2) {
        const length = (all[at] << 8) | all[at + 1];
        if (all.length - at < 2 + length) break;
        const message = decodeControl(all.slice(at + 2, at + 2 + length));
        at += 2 + length;
        this.#perform(this.#agreement.handle(message, nowMs));
      }
    } catch (error) {
      return this.close((error as Error).message);
    }
    this.#inbox = all.slice(at);
  }

  #perform(effects: AgreementEffect[]): void {
    for (const effect of effects) {
      this.#work = this.#work.then(() => this.#performOne(effect)).catch((error: Error) =>
        this.close(error.message)
      );
    }
    this.#work = this.#work.then(() => this.#noteAgreed());
  }

  async #performOne(effect: AgreementEffect): Promise<void> {
    if (this.#isClosed) return;
    switch (effect.kind) {
      case "send":
        return this.#send(effect.message);
      case "close":
        return this.close(effect.why);
      case "install": {
        const { id: keyId, secret } = effect;
        const { peer } = this.#options;
        await this.#options.key({ kind: "key", peer, step: "install", keyId, secret });
        return;
      }
      case "use":
      case "keepOnly":
        await this.#options.key({
          kind: "key",
          peer: this.#options.peer,
          step: effect.kind,
          keyId: effect.id,
        });
    }
  }

  #noteAgreed(): void {
    const { agreed } = this.#agreement;
    if (agreed === this.#agreed) return;
    const text = this.#agreed === null ? "keys agreed on" : "keys renewed";
    this.#agreed = agreed;
    this.#options.onAgreed();
    this.#options.log.info(text, { keyId: agreed });
  }

  #send(message: ControlMessage): void {
    const envelope = encodeControl(message);
    const bytes = new Uint8Array(2 + envelope.length);
    bytes[0] = envelope.length >> 8;
    bytes[1] = envelope.length;
    bytes.set(envelope, 2);
    this.#socket.write(bytes);
  }
}

/** Resolves when the server listens. */
function listening(server: tls.Server, at: Endpoint): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const place = formatHostPort(at);
  server.once(
    "error",
    (error: Error) =>
      reject(new Error(`Cannot listen for control connections at ${place}: ${error.message}`)),
  );
  server.listen({ host: at.address.text, port: at.port }, resolve);
  return promise;
}

/** Connects to the peer's control port over one link. */
async function connectTcp(link: { local: string; remote: string }): Promise<net.Socket> {
  const from = parseHostPort(link.local);
  const to = controlEndpoint(link.remote);
  const socket = net.connect({
    host: to.address.text,
    port: to.port,
    localAddress: from.address.text,
  });
  // What comes later is TLS's to tell.
  socket.on("error", () => {});
  return await inTime(socket, "connect", CONNECT_MS);
}

/** Resolves with the socket at its event; destroys it when that does not come in time. */
function inTime<S extends net.Socket>(socket: S, event: string, timeoutMs: number): Promise<S> {
  const { promise, resolve, reject } = Promise.withResolvers<S>();
  const fail = (why: string) => {
    clearTimeout(timer);
    socket.destroy();
    reject(new Error(why));
  };
  const timer = setTimeout(() => fail(`no ${event} in ${timeoutMs} ms`), timeoutMs);
  socket.once("error", (error: Error) => fail(error.message));
  socket.once("close", () => fail("the peer closed it"));
  socket.once(event, () => {
    clearTimeout(timer);
    resolve(socket);
  });
  return promise;
}
