/**
 * channels.ts - how replicas find each other's channels: greetings, resumption, ends
 *
 * Theory of operation
 * A standby connects over one of the links and says hello; the primary answers with welcome, and from
 * then on the standby counts. Where there are several links a channel outlives its connection: it is
 * suspended, and goes on over another link (resumption.ts). A connection that says nothing is closed
 * after GREET_MS, a peer that takes nothing after STALL_MS.
 *
 * A standby takes the hello of one that it invites to follow it (protocol/replica.ts, "Several peers") and hands
 * on to it what it is told itself. That channel, `next`, ends with its connection; it becomes the service's channel
 * when this node becomes primary with who follows it as the standby. Who follows is taken only if it can hold all that
 * this node can.
 *
 * Limits: GREETINGS_MAX connections wait for their greeting; channel.ts bounds what waits in a channel.
 */
import { Channel } from "../channel.ts";
import { Greeting, type Hello } from "../greeting.ts";
import { libc } from "../io/libc.ts";
import { acceptTcp, connectTcp, socketError } from "../io/socket.ts";
import type { Keyring } from "../protocol/keyring.ts";
import type { Name } from "../protocol/chain.ts";
import { linkFor } from "../protocol/links.ts";
import { type Frame, MessageError } from "../protocol/message.ts";
import type { Refusals } from "../refusals.ts";
import { keepUp } from "../resumption.ts";
import { StreamSeal } from "../seal.ts";
import type { Link } from "./link.ts";
import { log, type LoopOptions } from "./messages.ts";
import type { Service } from "./service.ts";

/** A peer that takes nothing from the channel for so long is no standby. */
const STALL_MS = 2000;
/** A channel that has not been greeted by then is closed. */
const GREET_MS = 1000;
/** Who follows a standby and is not heard for so long is given up, milliseconds. */
const SILENT_MS = 1000;
/** The primary hears so often what is confirmed further down, when nothing waits for it, milliseconds. */
const FURTHER_MS = 100;
/** Pause between attempts to open a channel. */
const RECONNECT_MS = 100;
/** Connections that may wait for their greeting. */
const GREETINGS_MAX = 16;

/** What the channels of a node are made of. */
export interface ChannelsOptions {
  /** The loop's. */
  loop: LoopOptions;
  /** Paths to all peers. */
  links: readonly Link[];
  /** Whose channels they are. */
  services: readonly Service[];
  /** By peer; none for plain text. */
  keyrings: ReadonlyMap<string, Keyring>;
  /** Counts what is not the peers'. */
  refusals: Refusals;
}

/** The channels of a node's services. */
export class Channels {
  readonly #options: LoopOptions;
  readonly #links: readonly Link[];
  readonly #services: readonly Service[];
  readonly #keyrings: ReadonlyMap<string, Keyring>;
  readonly #refusals: Refusals;
  readonly #greeting = new Map<number, Greeting>();

  /** Opens nothing yet. */
  constructor({ loop, links, services, keyrings, refusals }: ChannelsOptions) {
    this.#options = loop;
    this.#links = links;
    this.#services = services;
    this.#keyrings = keyrings;
    this.#refusals = refusals;
  }

  /** Descriptors of those that have not greeted yet. */
  get greeting(): number[] {
    return [...this.#greeting.keys()];
  }

  /** A standby's connection: which service it is for, its first frame says. */
  accept(link: Link, nowMs: number): void {
    for (;;) {
      const accepted = acceptTcp(link.listener);
      if (accepted === null) return;
      if (this.#greeting.size >= GREETINGS_MAX) {
        libc.close(accepted.fd);
        this.#refusals.note("connection", { why: "too many wait for a greeting" }, nowMs);
        continue;
      }
      const seal = this.#streamSeal(link.peer, false);
      const { peer } = link;
      this.#greeting.set(accepted.fd, new Greeting(accepted.fd, { peer, seal, nowMs }));
    }
  }

  /** What protects a connection with `peer` that we have opened, or accepted; null for plain text. */
  #streamSeal(peer: string, connects: boolean): StreamSeal | null {
    const keyring = this.#keyrings.get(peer);
    if (keyring === undefined) return null;
    return new StreamSeal(keyring, { node: this.#options.node, peer, connects });
  }

  #linksTo(peer: string): Link[] {
    return this.#links.filter((link) => link.peer === peer);
  }

  /** Reads what a connection says first. */
  greet(fd: number, nowMs: number): void {
    const greeting = this.#greeting.get(fd);
    if (greeting === undefined) return;
    try {
      const hello = greeting.receive();
      if (hello === null) return;
      this.#greeting.delete(fd);
      this.#welcome(greeting, hello, nowMs);
    } catch (error) {
      if (!(error instanceof MessageError)) throw error;
      this.#refusals.note("connection", { why: error.message }, nowMs);
      this.#dropGreeting(fd);
    }
  }

  #dropGreeting(fd: number): void {
    this.#greeting.get(fd)?.seal?.close();
    this.#greeting.delete(fd);
    libc.close(fd);
  }

  /** Takes a standby's hello: from now on it counts. */
  #welcome(greeting: Greeting, hello: Hello, nowMs: number): void {
    if (hello.kind === "resume") return this.#resume(greeting, hello, nowMs);
    const { fd, seal, peer } = greeting;
    const service = this.#services.find((s) => s.options.name === hello.service);
    const refusal = service === undefined
      ? `no service "${hello.service}" here`
      : hello.node !== peer
      ? `node "${hello.node}" is not the peer of this link, "${peer}"`
      : hello.keepsLogs !== service.keepsLogs
      ? unlike(hello.keepsLogs)
      : service.replica.role === "standby"
      ? whyNotNext(service, hello)
      : service.replica.role !== "primary" || service.switching !== null
      ? "not primary"
      : service.replica.partner !== peer
      ? `the standby is "${service.replica.partner}"`
      : null;
    if (service === undefined || refusal !== null) {
      return this.#refuse(greeting, { service: hello.service, why: refusal ?? "not served" });
    }
    if (service.replica.role === "standby") {
      return this.#welcomeNext(service, greeting, hello, nowMs);
    }
    if (service.channel !== null) this.close(service, "a new one replaces it", nowMs);
    const { core, options, replica } = service;
    if (!replica.admits(peer)) {
      const why = "others that followed the last standby are yet to be given up";
      return this.#refuse(greeting, { service: hello.service, why });
    }
    const channel = new Channel(fd, {
      core,
      peer,
      base: service.base,
      connected: true,
      seal,
      session: this.#linksTo(peer).length > 1 ? hello.session : 0,
      link: null,
      nowMs,
      region: 0,
    });
    service.chain.clear();
    service.further.clear();
    service.tellBelow = 0;
    service.isTold = false;
    service.channel = channel;
    channel.open = true;
    channel.epoch = replica.epoch;
    core.wasm.setMssMax(service.mssFor(Math.min(options.mtu, hello.mtu)));
    core.wasm.begin(nowMs >>> 0);
    // Whatever an earlier standby had is gone: those connections are unprotected.
    service.dropKeeper("standby");
    service.addKeeper("standby", hello.logLimit);
    this.#sayWelcome(service, channel, nowMs);
    replica.handleChannelUp(replica.epoch, hello.session);
    log("info", "standby joined", {
      service: options.name,
      node: hello.node,
      epoch: replica.epoch,
    });
  }

  #refuse({ fd, seal }: Greeting, fields: { service: string; why: string }): void {
    log("info", "standby refused", fields);
    seal?.close();
    libc.close(fd);
  }

  /** What we can keep, for who follows us. */
  #sayWelcome({ options, replica }: Service, channel: Channel, nowMs: number): void {
    channel.send({
      kind: "welcome",
      node: this.#options.node,
      epoch: replica.epoch,
      mtu: options.mtu,
      logLimit: options.logLimit,
      capacity: options.capacity,
    }, nowMs);
  }

  /** Standby: takes the hello of who follows us. */
  #welcomeNext(
    service: Service,
    { fd, seal, peer }: Greeting,
    hello: Frame & { kind: "hello" },
    nowMs: number,
  ): void {
    const { channel: ours, core, options, replica } = service;
    this.closeNext(service, "a new one replaces it", nowMs);
    const { session, logLimit } = hello;
    const channel = new Channel(fd, {
      core,
      peer,
      base: service.base,
      connected: true,
      seal,
      session: 0,
      link: null,
      nowMs,
      region: ours!.region === 0 ? 1 : 0,
    });
    channel.open = true;
    channel.epoch = replica.epoch;
    service.next = { channel, session, logLimit };
    core.wasm.loseNext();
    this.#sayWelcome(service, channel, nowMs);
    this.nameChain(service, [], nowMs);
    log("info", "next replica joined", { service: options.name, node: hello.node });
  }

  /** Standby: who follows us is followed by `names`; the primary is to know. */
  nameChain(service: Service, names: readonly Name[], nowMs: number): void {
    const { chain, channel, next, replica } = service;
    const first = next === null ? [] : [{ node: next.channel.peer, session: next.session }];
    chain.setNames([...first, ...names], service.lastSeq);
    replica.handleFollowers(chain.followers);
    if (channel === null || !channel.open || replica.role !== "standby") return;
    channel.further = chain.numbers;
    channel.send({ kind: "chain", names: chain.names }, nowMs);
  }

  /** Standby: ends the channel to who follows us. */
  closeNext(service: Service, why: string, nowMs: number): void {
    const { core, next, options } = service;
    if (next === null) return;
    const { channel } = next;
    if (channel.refused !== null) this.#refusals.note("frame", { why: channel.refused }, nowMs);
    channel.close();
    service.next = null;
    core.wasm.loseNext();
    this.nameChain(service, [], nowMs);
    log("info", "next replica lost", { service: options.name, node: channel.peer, why });
  }

  /** The peer goes on with its channel on another connection. */
  #resume({ fd, seal, peer }: Greeting, asked: Hello & { kind: "resume" }, nowMs: number): void {
    const service = this.#services.find((s) => s.options.name === asked.service);
    const channel = service?.channel ?? null;
    const isKnown = channel !== null && channel.canResume && channel.session === asked.session;
    const isTheirs = asked.node === peer && channel?.peer === peer;
    if (!isKnown || !isTheirs || asked.epoch < channel.epoch) {
      log("info", "resumption refused", { service: asked.service, epoch: asked.epoch });
      seal?.close();
      libc.close(fd);
      return;
    }
    channel.attach(fd, { seal, connected: true, link: null, nowMs });
    const { epoch } = service!.replica;
    channel.resume(asked.applied, nowMs, { kind: "resumed", epoch, applied: channel.applied });
    log("info", "channel resumed", { service: asked.service });
  }

  /** A channel between several links outlives its connection; any other one is closed. */
  noteBroken(service: Service, why: string, nowMs: number): void {
    const channel = service.channel!;
    // Closed after our greeting: the other side knows of no such channel.
    const isRefused = channel.suspendedSinceMs !== null && channel.connected;
    if (!channel.canResume || isRefused) return this.close(service, why, nowMs);
    channel.suspend(nowMs);
    log("info", "channel suspended", { service: service.options.name, why });
  }

  #keepUp(service: Service, channel: Channel, nowMs: number): void {
    const { heartbeatMs, detect } = this.#options;
    const links = this.#linksTo(channel.peer);
    const why = keepUp(channel, {
      links,
      detect,
      heartbeatMs,
      nowMs,
      connect: (index) => {
        const fd = this.#connectOver(links[index]);
        if (fd === null) return;
        const seal = this.#streamSeal(channel.peer, true);
        channel.attach(fd, { seal, connected: false, link: index, nowMs });
      },
      log: (text, fields) => log("info", text, { service: service.options.name, ...fields }),
    });
    if (why !== null) this.close(service, why, nowMs);
  }

  /** Begins a connection; null when the link refuses at once. */
  #connectOver(link: Link): number | null {
    try {
      return connectTcp({ address: link.local.address, port: 0 }, link.remote);
    } catch (error) {
      log("debug", "cannot open a channel", { why: (error as Error).message });
      return null;
    }
  }

  /** Standby: opens a channel to its primary, unless there is one or the last attempt was just now. */
  connect(service: Service, nowMs: number): void {
    const peer = service.replica.upstream;
    if (service.channel !== null || nowMs < service.nextConnectMs || peer === null) return;
    if (this.#keyrings.get(peer)?.sendId === null) return;
    service.nextConnectMs = nowMs + RECONNECT_MS;
    const links = this.#linksTo(peer);
    const index = linkFor(service.attempt++, links, this.#options.detect);
    const fd = this.#connectOver(links[index]);
    if (fd === null) return;
    // What a standby hands on to us ends with its connection.
    const isDirect = peer === service.replica.partner;
    service.channel = new Channel(fd, {
      core: service.core,
      peer,
      base: service.base,
      connected: false,
      seal: this.#streamSeal(peer, true),
      session: isDirect && links.length > 1 ? newSession() : 0,
      link: index,
      nowMs,
      region: service.next?.channel.region === 0 ? 1 : 0,
    });
  }

  /** A connection stands or was refused: says hello, or goes on where the last one ended. */
  finishConnect(service: Service, channel: Channel, nowMs: number): void {
    const trouble = socketError(channel.fd);
    if (trouble !== 0) {
      this.noteBroken(service, `connecting failed with error ${trouble}`, nowMs);
      return;
    }
    channel.connected = true;
    const { options } = service;
    if (channel.open) {
      channel.greet({
        kind: "resume",
        node: this.#options.node,
        service: options.name,
        epoch: service.replica.epoch,
        session: channel.session,
        applied: channel.applied,
      }, nowMs);
      return;
    }
    const session = channel.session === 0 ? newSession() : channel.session;
    service.replica.handleGreeting(session);
    channel.greet({
      kind: "hello",
      node: this.#options.node,
      service: options.name,
      epoch: service.replica.epoch,
      mtu: options.mtu,
      logLimit: options.logLimit,
      capacity: options.capacity,
      session,
      keepsLogs: service.keepsLogs,
    }, nowMs);
  }

  /** Ends a service's channel; the replica is told. */
  close(service: Service, why: string, nowMs: number): void {
    const { channel, replica } = service;
    if (channel === null) return;
    if (channel.refused !== null) this.#refusals.note("frame", { why: channel.refused }, nowMs);
    const wasOpen = channel.open;
    channel.close();
    service.channel = null;
    service.nextConnectMs = nowMs + RECONNECT_MS;
    if (wasOpen) log("info", "channel closed", { service: service.options.name, why });
    replica.handleChannelDown(why);
  }

  /** Closes what is greeted too late. */
  closeLate(nowMs: number): void {
    for (const { fd, sinceMs } of this.#greeting.values()) {
      if (nowMs - sinceMs <= GREET_MS) continue;
      this.#refusals.note("connection", { why: `no greeting came in ${GREET_MS} ms` }, nowMs);
      this.#dropGreeting(fd);
    }
  }

  /** Looks after a service's channel as time goes by. */
  watch(service: Service, nowMs: number): void {
    const { channel, next } = service;
    if (nowMs >= service.nextFurtherMs) {
      service.nextFurtherMs = nowMs + FURTHER_MS;
      if (channel?.owesFurther) channel.isFurtherDue = true;
      const wasBehind = service.isBehind;
      service.isBehind = service.replica.isFurther && service.core.wasm.unsettled() !== 0;
      if (wasBehind && !service.isBehind && channel !== null) channel.kept = channel.applied;
    }
    if (next !== null && !next.channel.open) this.closeNext(service, "its backlog is full", nowMs);
    else if (next !== null) this.#watchNext(service, next.channel, nowMs);
    if (channel === null) return;
    if (!channel.open && nowMs - channel.sinceMs > GREET_MS) {
      this.close(service, "no greeting came", nowMs);
    } else if (channel.stalledSinceMs !== null && nowMs - channel.stalledSinceMs > STALL_MS) {
      this.close(service, `the peer took nothing for ${STALL_MS} ms`, nowMs);
    } else this.#keepUp(service, channel, nowMs);
  }

  /** TCP tells nobody that a host has lost its power, while nothing is sent to it. */
  #watchNext(service: Service, channel: Channel, nowMs: number): void {
    const links = this.#linksTo(channel.peer);
    const isSilent = links.every(({ heardMs }) => nowMs - (heardMs ?? -Infinity) > SILENT_MS);
    if (isSilent) this.closeNext(service, `silent for ${SILENT_MS} ms`, nowMs);
    else if (channel.stalledSinceMs !== null && nowMs - channel.stalledSinceMs > STALL_MS) {
      this.closeNext(service, `the peer took nothing for ${STALL_MS} ms`, nowMs);
    }
  }

  /** Closes the connections of those that have not greeted. */
  closeAll(): void {
    for (const fd of this.#greeting.keys()) this.#dropGreeting(fd);
  }
}

/** Standby: why this one cannot follow us; null when it can. */
function whyNotNext(service: Service, hello: Frame & { kind: "hello" }): string | null {
  const { channel, options, replica } = service;
  const { node, mtu, logLimit } = hello;
  if (channel === null || !channel.open || !replica.invites(node)) return "not invited";
  if (mtu < options.mtu) return `its MTU is ${mtu}, that of this node ${options.mtu}`;
  if (logLimit >= options.logLimit) return null;
  return `its log_limit is ${logLimit} octets, that of this node ${options.logLimit}`;
}

/** Why a replica that keeps whole logs, or does not, cannot follow one that does otherwise. */
function unlike(keepsLogs: boolean): string {
  const [its, ours] = keepsLogs ? ["keeps", "does not"] : ["does not keep", "does"];
  return `it ${its} whole logs, this node ${ours}; allowed: mode = "log", or "hot" with a table log, at all ` +
    'hosts of the service, or mode = "hot" without one at all';
}

/** Told apart from other times; not 0. */
function newSession(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] || 1;
}
