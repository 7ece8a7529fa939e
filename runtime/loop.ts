/**
 * loop.ts - the data plane: one blocking loop in a worker of its own
 *
 * Theory of operation
 * The thread that forwards is the thread that says it is alive. One pass:
 *
 *   poll ──> beats ──> for each service: channel ──> clients ──> server ──> core ──> message ──> out
 *     ^                                                                                          │
 *     └───────────── roles: what was heard and the time into Replica, its effects ───────────────┘
 *
 * Packets are read into the core's batch slots and written from wherever the core left them: the
 * output list is an array of `struct iovec`, so nothing is copied and nothing is allocated for a
 * packet. After the last packet the loop looks again for a while before it sleeps (spin.ts). Between
 * passes that moved something it asks poll(2) only now and then: every pass tries the devices and
 * channels anyway, and what only poll can tell is not urgent.
 *
 *   takeover   drain the channel -> adopt (core.promote) -> claim route, proxy entry, GARP/NA ->
 *              speak (parked flights, ACKs)                                        P7, DESIGN 5.6
 *   switch     stop reading -> wait until all is committed -> tell all progress -> demote ->
 *              "handover" -> relay what still arrives here -> "took" -> release the address
 *
 * Commands come as JSON through a mailbox that is polled with the rest; answers and events leave
 * with postMessage (loop/messages.ts). What this file joins: loop/service.ts, the state of a service;
 * loop/link.ts and loop/beats.ts, who is alive; loop/channels.ts, how replicas find each other;
 * loop/view.ts, what people are told.
 *
 * Limits: see core/limits.ts for a pass, channel.ts for the backlog, loop/channels.ts for peers that
 * say or take nothing; SWITCH_MS for a switch that does not come about.
 */
/// <reference lib="deno.worker" />
import type { Channel } from "./channel.ts";
import { type Core, CoreRole, Staying } from "./core.ts";
import type { IpAddress } from "./io/address.ts";
import { type Capability, keepOnlyCapabilities } from "./io/capabilities.ts";
import { libc, Memory, POLLIN, POLLOUT } from "./io/libc.ts";
import { openLibcrypto } from "./io/libcrypto.ts";
import { Priority } from "./io/scheduling.ts";
import { take } from "./io/socket.ts";
import { Beats, type HeardBeat } from "./loop/beats.ts";
import { Channels } from "./loop/channels.ts";
import { writeEpoch } from "./loop/epoch_file.ts";
import { Link } from "./loop/link.ts";
import { openLogDirectory } from "./log_store/files.ts";
import type { DiskLog } from "./log_store/disk_log.ts";
import {
  type KeyCommand,
  log,
  type LoopCommand,
  type LoopOptions,
  type LoopStatus,
  type LoopSwitch,
  post,
} from "./loop/messages.ts";
import { Service, type Switch } from "./loop/service.ts";
import { connectionsOf, linkStatus, serviceStatus, wallMs } from "./loop/view.ts";
import {
  type CoreFinding,
  FINDINGS,
  handOverReason,
  type JudgeEffect,
  type Situation,
} from "./protocol/judge.ts";
import type { Keeper } from "./protocol/keepers.ts";
import { confirmedBy } from "./protocol/chain.ts";
import { Keyring } from "./protocol/keyring.ts";
import { type Frame, MessageError } from "./protocol/message.ts";
import { type Effect, type Evidence, PROBE_MS } from "./protocol/replica.ts";
import type { RecoveryReason } from "./protocol/recovery.ts";
import { Recoverer } from "./recoverer.ts";
import { Refusals } from "./refusals.ts";
import { BeatSeal } from "./seal.ts";
import { Spin } from "./spin.ts";
import type { RecoveryStatus } from "./status.ts";

/** A switch that has not come about by then is given up. */
const SWITCH_MS = 3000;
/** Octets of one message that bring a standby what it has missed. */
const TELL_OCTETS = 128 << 10;
/** How long the old primary still hands over what arrives, after the new one speaks. */
const RELAY_MS = 100;
/** When the address is announced again after a claim. */
const ANNOUNCE_AGAIN_MS = [10, 50, 200, 1000] as const;
/** Longest wait in poll, so that a stop is always seen. */
const WAIT_MAX_MS = 100;
/** While timers of the core run. */
const WAIT_TIMERS_MS = 5;
/** Busy passes go on without poll for at most so long: a beat must not lie unread. */
const POLL_EVERY_MS = 0.5;
/** Judgements that are shown. */
const JUDGEMENTS_MAX = 32;
/** Between two looks at the card where clients arrive. */
const LOOK_MS = 20;
/** Between two questions for the address. */
const PROBE_EVERY_MS = 50;
/** Between two alarms about one address. */
const ALARM_EVERY_MS = 10_000;

/**
 * How the data plane shares its cores, see spin.ts and io/scheduling.ts: a thread that goes far before
 * others gives them little when it yields, so it does that only where it does not spin.
 */
const NICE = -5;
const CROWDED_NICE = -15;
const SLICE_US = 100;

/**
 * What this thread may do once everything is open: routes and socket buffers, priority, and its epoch
 * files wherever the state directory is.
 */
const CAPABILITIES: Capability[] = ["CAP_NET_ADMIN", "CAP_SYS_NICE", "CAP_DAC_OVERRIDE"];

/** The data plane. */
class DataLoop {
  readonly #options: LoopOptions;
  readonly #passes: Int32Array<SharedArrayBuffer>;
  readonly #services: Service[] = [];
  readonly #links: Link[] = [];
  /** By peer; none for plain text. */
  readonly #keyrings = new Map<string, Keyring>();
  readonly #refusals = new Refusals((text, fields) => log("warn", text, fields));
  readonly #beats: Beats;
  readonly #channels: Channels;
  readonly #polls = new Memory(8 * 1024);
  #pollCount = 0;
  /** What comes over it is the old primary's, though we are primary already. */
  #drained: Channel | null = null;
  #stopping = false;
  #longestPassMs = 0;
  readonly #priority = new Priority(SLICE_US);
  #isCrowded = false;
  /** When the last pass ended. */
  #passedMs = 0;
  readonly #spin: Spin;
  /** When poll is asked again, at the latest. */
  #nextPollMs = 0;

  constructor(options: LoopOptions) {
    this.#options = options;
    this.#passes = new Int32Array(options.passes);
    this.#spin = new Spin(options.spinUs);
    const [incarnation, seq] = crypto.getRandomValues(new Uint32Array(2));
    const token = incarnation.toString(16);
    const nowMs = performance.now();
    for (const { name } of options.seal === null ? [] : options.peers) {
      this.#keyrings.set(name, new Keyring(options.seal!.renewOctets));
    }
    const shared = {
      loop: options,
      links: this.#links,
      services: this.#services,
      keyrings: this.#keyrings,
      refusals: this.#refusals,
    };
    this.#beats = new Beats({ ...shared, incarnation, seq });
    this.#channels = new Channels(shared);
    try {
      if (this.#keyrings.size > 0) openLibcrypto();
      for (const { name, links } of options.peers) {
        const keyring = this.#keyrings.get(name);
        for (const link of links) {
          const ends = { node: options.node, peer: name, ...link };
          const seal = keyring === undefined ? null : new BeatSeal(keyring, ends);
          this.#links.push(new Link(name, link, seal));
        }
      }
      for (const service of options.services) {
        this.#services.push(new Service(service, { loop: options, token, nowMs }));
        this.#addRecoverer(this.#services.at(-1)!, nowMs);
        this.#readDisk(this.#services.at(-1)!, nowMs);
      }
    } catch (error) {
      this.#close();
      throw error;
    }
    this.#priority.set(NICE);
    keepOnlyCapabilities(CAPABILITIES);
  }

  /** Runs until it is told to stop. */
  run(): void {
    try {
      while (!this.#stopping) this.#pass();
    } finally {
      this.#close();
    }
  }

  #close(): void {
    for (const service of this.#services) {
      service.claim.release();
      service.close();
    }
    for (const link of this.#links) link.close();
    this.#channels.closeAll();
  }

  // One pass ------------------------------------------------------------------------------------

  #pass(): void {
    Atomics.add(this.#passes, 0, 1);
    const ready = this.#wait();
    const startMs = performance.now();
    if (ready) this.#receiveControl(startMs);
    let busy = false;
    for (const service of this.#services) {
      if (this.#serve(service, startMs)) busy = true;
    }
    if (busy) this.#spin.noteBusy(startMs);
    else this.#nextPollMs = 0;
    this.#beats.sendIfDue();
    this.#channels.closeLate(startMs);
    for (const service of this.#services) this.#judge(service, startMs);
    for (const [peer, keyring] of this.#keyrings) {
      if (keyring.takeWorn()) post({ kind: "worn", peer });
    }
    this.#passedMs = performance.now();
    this.#longestPassMs = Math.max(this.#longestPassMs, this.#passedMs - startMs);
  }

  /** Waits for something to do; true when poll has something to tell. */
  #wait(): boolean {
    const nowMs = this.#passedMs;
    const isCrowded = this.#spin.isCrowded(nowMs);
    if (isCrowded !== this.#isCrowded) {
      this.#isCrowded = isCrowded;
      this.#priority.set(isCrowded ? CROWDED_NICE : NICE);
    }
    if (nowMs < this.#nextPollMs) {
      for (const service of this.#services) {
        service.netReady = true;
        service.appReady = true;
      }
      return false;
    }
    this.#nextPollMs = nowMs + POLL_EVERY_MS;
    let waitMs = Math.min(WAIT_MAX_MS, this.#beats.nextMs - nowMs);
    for (const service of this.#services) {
      const { wasm } = service.core;
      if (service.isMute) waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
      else if (wasm.more() !== 0) waitMs = 0;
      else if (wasm.bodyLength() > 0 && !service.isDiskSlow) waitMs = 0;
      else if (isBringing(service)) waitMs = 0;
      else if (wasm.hasTimers() !== 0 || service.switching !== null) {
        waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
      }
      if (service.recoverer?.isBusy) waitMs = Math.min(waitMs, WAIT_TIMERS_MS);
      if (service.announceAtMs.length > 0) {
        waitMs = Math.min(waitMs, service.announceAtMs[0] - nowMs);
      }
    }
    if (waitMs > 0 && this.#spin.isDue(nowMs)) {
      const yieldMs = performance.now();
      libc.sched_yield();
      const backMs = performance.now();
      this.#spin.noteLate(backMs - yieldMs, backMs);
      waitMs = 0;
    }
    const restUs = waitMs > 0 ? this.#spin.restUs(nowMs) : 0;
    if (restUs > 0) libc.usleep(restUs);
    this.#pollCount = 0;
    this.#add(this.#options.mailboxFd, POLLIN);
    for (const link of this.#links) {
      this.#add(link.udp, POLLIN);
      this.#add(link.listener, POLLIN);
    }
    for (const fd of this.#channels.greeting) this.#add(fd, POLLIN);
    for (const service of this.#services) {
      const { channel, options } = service;
      const frozen = service.isMute || service.switching?.phase === "drain";
      const isAppFull = service.core.wasm.appBudget() === 0 || service.isDiskSlow;
      this.#add(frozen || service.isCongested ? -1 : options.netFd, POLLIN);
      this.#add(frozen || isAppFull ? -1 : options.appFd, POLLIN);
      // A standby whose disk is far behind takes no more from the primary.
      let events = isHeldByDisk(service) ? 0 : POLLIN;
      if (channel !== null && (!channel.connected || channel.hasBacklog)) events |= POLLOUT;
      this.#add(service.isNextCongested ? -1 : channel?.fd ?? -1, events);
      const next = service.next?.channel;
      this.#add(next?.fd ?? -1, next?.hasBacklog ? POLLIN | POLLOUT : POLLIN);
      this.#add(service.disk?.fd ?? -1, POLLIN);
      this.#add(service.claim.fd, POLLIN);
      this.#add(service.claim.watchFd, POLLIN);
    }
    const timeoutMs = Math.max(0, Math.ceil(waitMs));
    const result = libc.poll(this.#polls.address, this.#pollCount, timeoutMs);
    if (timeoutMs > 0) {
      const wokeMs = performance.now();
      this.#spin.noteLate(wokeMs - nowMs - timeoutMs, wokeMs);
      if (result > 0) this.#spin.noteSlept(wokeMs - nowMs);
    }
    return result > 0;
  }

  #add(fd: number, events: number): void {
    const at = this.#pollCount * 8;
    this.#polls.view.setInt32(at, fd, true);
    this.#polls.view.setInt16(at + 4, events, true);
    this.#polls.view.setInt16(at + 6, 0, true);
    this.#pollCount++;
  }

  /** What poll said of the `index`th descriptor that was added. */
  #events(index: number): number {
    return this.#polls.view.getInt16(index * 8 + 6, true);
  }

  #receiveControl(nowMs: number): void {
    let index = 0;
    const { greeting } = this.#channels; // before accept() adds to them
    if (this.#events(index++) !== 0) this.#takeCommands(nowMs);
    for (const link of this.#links) {
      if (this.#events(index++) !== 0) this.#beats.receive(link, (heard) => this.#hear(heard));
      if (this.#events(index++) !== 0) this.#channels.accept(link, nowMs);
    }
    for (const fd of greeting) {
      if (this.#events(index++) !== 0) this.#channels.greet(fd, nowMs);
    }
    for (const service of this.#services) {
      service.netReady = this.#events(index++) !== 0;
      service.appReady = this.#events(index++) !== 0;
      const events = this.#events(index++);
      const { channel } = service;
      if (channel !== null && (events & POLLOUT) !== 0) {
        if (!channel.connected) this.#channels.finishConnect(service, channel, nowMs);
        else channel.flush(nowMs);
      }
      if ((this.#events(index++) & POLLOUT) !== 0) service.next?.channel.flush(nowMs);
      if (this.#events(index++) !== 0) service.disk?.clearEvent();
      if (this.#events(index++) !== 0) {
        service.claim.answerNeighbours(service.replica.maySpeak(performance.now()));
      }
      if (this.#events(index++) !== 0) this.#noteRival(service, nowMs);
    }
  }

  // What the peer says ----------------------------------------------------------------------------

  #hear({ beat, nowMs, echoedMs, novelty }: HeardBeat): void {
    const { node } = beat;
    const token = beat.incarnation.toString(16);
    for (const said of beat.services) {
      const service = this.#services.find((s) => s.options.name === said.name);
      if (service === undefined) continue;
      if (novelty === "late") {
        service.replica.handleEcho(said, { node, echoedMs, token });
        continue;
      }
      // TCP tells nobody that a host has lost its power, while nothing is sent to it.
      const { replica } = service;
      if (novelty === "reborn" && replica.role === "standby" && replica.upstream === node) {
        this.#channels.close(service, "the peer has started again", nowMs);
      }
      if (novelty === "reborn" && service.next?.channel.peer === node) {
        this.#channels.closeNext(service, "the peer has started again", nowMs);
      }
      const heard = { node, nowMs, echoedMs, token };
      // Before it is counted on again: it lacks what its last server had.
      if (replica.partner !== node) this.#noteFurther(service, node, said.ready);
      this.#perform(service, replica.handleBeat(said, heard), nowMs);
      if (replica.partner !== node) continue;
      if (said.ready && !service.peerReady) service.core.wasm.bring();
      service.peerReady = said.ready;
    }
  }

  /** Primary: one further down, whose server works again, has lost its connections: all is told once more. */
  #noteFurther(service: Service, node: string, isReady: boolean): void {
    const { chain, core, further, replica } = service;
    if (replica.role !== "primary") return;
    const before = further.get(node);
    further.set(node, { isReady, wasReady: isReady || (before?.wasReady ?? false) });
    if (!isReady || before === undefined || before.isReady || !before.wasReady) return;
    if (!chain.names.some((name) => name.node === node)) return;
    chain.forget(node);
    service.tellBelow = core.wasm.retell();
    service.isTold = false;
  }

  #handleFrame(service: Service, channel: Channel, frame: Frame, body: number): void {
    const nowMs = performance.now();
    const { core, replica, options } = service;
    const { wasm } = core;
    switch (frame.kind) {
      case "data": {
        if (!channel.open) throw new MessageError("data before the greeting");
        if (frame.epoch < channel.epoch) {
          throw new MessageError(`data of epoch ${frame.epoch}, known is ${channel.epoch}`);
        }
        channel.epoch = frame.epoch;
        channel.theirs = frame.committed;
        if (this.#options.peers.length < 2) service.noteKept("standby", frame.committed);
        else if (replica.role === "primary" && channel !== this.#drained) {
          service.chain.setNumbers(frame.further);
        }
        if (frame.bodyLength === 0) return;
        const trouble = wasm.apply(body, frame.bodyLength);
        if (trouble !== 0) {
          throw new MessageError(`record at offset ${trouble - 1} is not well formed`);
        }
        channel.applied = frame.seq;
        this.#keep(service, channel, frame, body);
        if (replica.role !== "standby" && channel !== this.#drained) return;
        service.lastSeq = frame.seq;
        service.next?.channel.handOn(frame, body, nowMs);
        return;
      }
      case "chain":
        if (!channel.open) throw new MessageError("chain before the greeting");
        // It may have been said before a hand-over came there. Of two hosts nobody is further down, and telling
        // again would count the segments of a log on disk.
        if (replica.role !== "primary" || this.#options.peers.length < 2) return;
        service.chain.setNames(frame.names, wasm.messageSeq() - 1);
        if (service.chain.isTelling) {
          service.tellBelow = wasm.retell();
          service.isTold = false;
        }
        return;
      case "lead":
        if (!channel.open || replica.role !== "standby") throw new MessageError("lead out of turn");
        channel.epoch = Math.max(channel.epoch, frame.epoch);
        wasm.noteNewPrimary();
        service.next?.channel.send(frame, nowMs);
        return;
      case "welcome":
        if (channel.open || replica.role !== "standby") {
          throw new MessageError("welcome out of turn");
        }
        if (frame.epoch < replica.epoch) {
          throw new MessageError(`welcome to epoch ${frame.epoch}, known is ${replica.epoch}`);
        }
        channel.open = true;
        channel.epoch = frame.epoch;
        wasm.setMssMax(service.mssFor(Math.min(options.mtu, frame.mtu)));
        wasm.setPeerLogLimit(frame.logLimit);
        this.#channels.closeNext(service, "this node begins anew", nowMs);
        this.#forget(service, nowMs);
        wasm.setRole(CoreRole.standby);
        service.disk?.noteForgotten();
        service.disk?.changeSource(false);
        service.lastSeq = 0;
        replica.handleChannelUp(frame.epoch);
        log("info", "following", {
          service: options.name,
          primary: frame.node,
          epoch: frame.epoch,
        });
        return;
      case "handover":
        this.#perform(
          service,
          replica.handleHandover(frame.epoch, nowMs, { reason: handOverReason(frame.reason) }),
          nowMs,
        );
        if (replica.role === "primary") {
          channel.send({ kind: "took", epoch: replica.epoch }, nowMs);
        }
        return;
      case "whole":
        if (!channel.open) throw new MessageError("whole before the greeting");
        replica.handleWhole();
        return;
      case "took":
        // One that was sent again may be of the switch before.
        if (frame.epoch === replica.epoch) this.#finishSwitch(service, nowMs);
        return;
      case "resumed":
        if (channel.suspendedSinceMs === null || frame.epoch < channel.epoch) {
          throw new MessageError(`resumed in epoch ${frame.epoch} out of turn`);
        }
        channel.resume(frame.applied, nowMs);
        log("info", "channel resumed", {
          service: options.name,
          link: this.#links.filter(({ peer }) => peer === channel.peer)[channel.link!].text.local,
        });
        return;
      default:
        throw new MessageError(`frame ${frame.kind} out of turn`);
    }
  }

  /** A message of the peer's was applied: a primary's goes to the disk, and is kept once it is durable. */
  #keep(
    service: Service,
    channel: Channel,
    { seq, bodyLength }: Frame & { kind: "data" },
    body: number,
  ): void {
    const { core: { wasm, bytes }, disk, replica } = service;
    const urgent = wasm.takeAckDue() !== 0;
    channel.owesWord ||= urgent;
    if (replica.isFurther) {
      if (wasm.takeToldLate() !== 0) service.isBehind = true;
      // The primary would count on us: our server is to come there first, see Channels.watch().
      if (service.isBehind) return;
    }
    if (disk === null || disk.isLost || replica.role !== "standby") {
      channel.kept = seq;
      return;
    }
    const message = { seq, urgent, body: bytes.subarray(body, body + bodyLength) };
    if (disk.put(message, wallMs(performance.now()))) return;
    // Cannot happen while nothing is received from the time that half of the ring is in use.
    throw new MessageError("the disk is too slow for what it brings");
  }

  /** What who follows us says: for the primary to know, but for what it could go on from. */
  #handleNextFrame(service: Service, next: Channel, frame: Frame, body: number): void {
    const { chain, channel, core: { wasm } } = service;
    const nowMs = performance.now();
    switch (frame.kind) {
      case "data": {
        if (frame.epoch < next.epoch) {
          throw new MessageError(`data of epoch ${frame.epoch}, known is ${next.epoch}`);
        }
        next.epoch = frame.epoch;
        next.theirs = frame.committed;
        chain.setNumbers([frame.committed, ...frame.further]);
        if (channel !== null) {
          channel.further = chain.numbers;
          channel.isFurtherDue = service.options.copies > 1;
        }
        const trouble = wasm.applyNext(body, frame.bodyLength);
        if (trouble !== 0) {
          throw new MessageError(`record at offset ${trouble - 1} is not well formed`);
        }
        if (frame.bodyLength > 0) next.applied = next.kept = frame.seq;
        return;
      }
      case "chain":
        return this.#channels.nameChain(service, frame.names, nowMs);
      default:
        throw new MessageError(`frame ${frame.kind} out of turn`);
    }
  }

  /** Primary of a chain: what is confirmed by all of it who have to; and who has all. */
  #commit(service: Service, nowMs: number): void {
    if (this.#options.peers.length < 2) return;
    const { chain, channel, core: { wasm }, replica } = service;
    if (replica.role !== "primary" || channel === null || !channel.open) return;
    const first = channel.theirs;
    const released = confirmedBy(replica.keepers, { first, standby: replica.partner });
    service.noteKept("standby", released);
    chain.noteStandby(first);
    chain.step(replica, { sent: wasm.messageSeq() - 1, released, nowMs });
  }

  // Forwarding ----------------------------------------------------------------------------------

  /** One pass for one service; true when packets or messages moved. */
  #serve(service: Service, nowMs: number): boolean {
    const { core, options, replica } = service;
    const { wasm, view } = core;
    let { channel } = service;
    wasm.begin(nowMs >>> 0);
    let busy = false;
    const { next } = service;
    if (next !== null) {
      const trouble = next.channel.receive((frame, body) => {
        busy = true;
        this.#handleNextFrame(service, next.channel, frame, body);
      });
      if (trouble !== null && service.next === next) {
        this.#channels.closeNext(service, trouble, nowMs);
      }
    }
    if (
      channel !== null && channel.connected && !service.isNextCongested && !isHeldByDisk(service)
    ) {
      const trouble = channel.receive((frame, body) => {
        busy = true;
        this.#handleFrame(service, channel!, frame, body);
      });
      if (trouble !== null && service.channel === channel) {
        this.#channels.noteBroken(service, trouble, nowMs);
      }
      channel = service.channel;
      this.#beats.sendIfDue();
    }
    this.#commit(service, nowMs);
    if (service.disk !== null && this.#hearDisk(service, service.disk, nowMs)) busy = true;
    service.isMute = replica.role === "primary" && !replica.maySpeak(performance.now());
    if (service.isMute) return busy;
    let net = 0;
    let app = 0;
    const frozen = service.switching?.phase === "drain";
    if (service.netReady && !frozen && !service.isCongested) {
      const budget = wasm.netBudget();
      while (net < budget) {
        const length = libc.read(options.netFd, service.netSlots[net], service.slotSize);
        if (length <= 0) break;
        view.setUint32(service.netLengthsAt + net * 4, length, true);
        net++;
      }
      service.netReady = net === budget;
    }
    if (service.appReady && !frozen && !service.isDiskSlow) {
      const budget = wasm.appBudget();
      while (app < budget) {
        const length = libc.read(options.appFd, service.appSlots[app], service.slotSize);
        if (length <= 0) break;
        view.setUint32(service.appLengthsAt + app * 4, length, true);
        app++;
      }
      service.appReady = app === budget;
    }
    if (net > 0 || app > 0) busy = true;
    if (service.isForsaken) service.isForsaken = wasm.forsake() !== 0;
    const count = wasm.run(net, app);
    this.#sendMessage(service, nowMs);
    this.#write(service, count);
    this.#judgeFindings(service, nowMs);
    if (replica.role === "primary" || service.isWarm) service.recoverer?.step(nowMs);
    if (service.switching?.phase === "drain") this.#drain(service, service.switching, nowMs);
    return busy;
  }

  /** Hands what the pass produced to all who keep it, or tells the peer at least what is kept here. */
  #sendMessage(service: Service, nowMs: number): void {
    const { core, channel, disk, replica } = service;
    const { wasm, bytes } = core;
    const isPrimary = replica.role === "primary";
    if (isPrimary) this.#tellAgain(service);
    const isOpen = channel !== null && channel.open;
    const length = wasm.bodyLength();
    if (length === 0) {
      const isDue = isOpen &&
        (channel.owesWord || channel.owesConfirmation || channel.isFurtherDue);
      if (isDue) channel.acknowledge(replica.epoch, nowMs);
    } else {
      const body = bytes.subarray(wasm.body(), wasm.body() + length);
      const message = { seq: wasm.messageSeq(), urgent: wasm.isInputCommitted() === 0, body };
      // Without room there it stays in the core, for the standby too.
      if (isPrimary && disk !== null && !disk.put(message, wallMs(nowMs))) return;
      if (isOpen) channel.sendBody(replica.epoch, nowMs);
      else wasm.sealed();
    }
    if (channel?.isClosed) this.#channels.close(service, "its backlog is full", nowMs);
  }

  /** Tells again what the standby, who follows it or the disk lacks, a part of it with each message. */
  #tellAgain(service: Service): void {
    const { chain, core: { wasm }, channel, disk } = service;
    // The progress of the last one that was told is in the message that leaves nothing dirty.
    const isComplete = service.isTold && wasm.dirty() === 0;
    const below = disk?.tellBelow ?? service.tellBelow;
    const isLacking = wasm.bringing() !== 0 || (service.tellBelow > 0 && !service.isTold);
    const isWanted = (disk?.tellBelow ?? 0) > 0 || (channel !== null && channel.open && isLacking);
    const isCramped = service.isDiskSlow || isCrammed(channel);
    if (isWanted && !isCramped && wasm.tellAgain(below, TELL_OCTETS) === 0) {
      disk?.noteTold();
      service.isTold = service.tellBelow > 0;
    }
    if (!isComplete) return;
    service.isTold = false;
    service.tellBelow = 0;
    chain.noteTold(wasm.messageSeq() - (wasm.bodyLength() > 0 ? 0 : 1));
  }

  /** Writes the output list; an entry starts as the iovec that writev(2) wants. */
  #write(service: Service, count: number): void {
    const { core, options, replica, vectors, outListAt, outEntry } = service;
    const { view, wasm } = core;
    for (let i = 0; i < count; i++) {
      if ((i & 7) === 7) this.#beats.sendIfDue();
      const toServer = view.getUint32(outListAt + i * outEntry + 16, true) === 1;
      // For each one anew: a process that is stopped here and continued after the takeover must not say
      // even what is left of a pass (seen at one of 50 SIGSTOPs, with a look for eight packets).
      if (!toServer && (!service.hasCarrier || !replica.maySpeak(performance.now()))) {
        wasm.noteSwallowed();
        continue;
      }
      const fd = toServer ? options.appFd : options.netFd;
      // A full device queue drops; TCP repeats it.
      if (libc.writev(fd, vectors[i], 1) < 0) wasm.noteSwallowed();
    }
  }

  // Roles ---------------------------------------------------------------------------------------

  /** Time, a peer that stalls, announcements that are due. */
  #judge(service: Service, nowMs: number): void {
    const { replica, switching } = service;
    this.#channels.watch(service, nowMs);
    const hung = service.core.wasm.hangs() !== 0;
    if (service.appHung && !hung) {
      log("info", "server goes on", { service: service.options.name });
    }
    service.appHung = hung;
    if (nowMs >= service.nextLookMs) this.#lookAtCard(service, nowMs);
    this.#perform(service, replica.handleTime(nowMs), nowMs);
    this.#tellWhole(service, nowMs);
    this.#continueProbe(service, nowMs);
    this.#continueSwitch(service, nowMs);
    while (service.announceAtMs.length > 0 && service.announceAtMs[0] <= nowMs) {
      service.announceAtMs.shift();
      if (replica.maySpeak(performance.now())) service.claim.announce();
    }
    if (service.relayUntilMs !== null && nowMs >= service.relayUntilMs) {
      service.relayUntilMs = null;
      if (replica.role !== "primary") {
        service.core.wasm.relay(0);
        service.claim.release();
      }
    }
    if (switching !== null && nowMs > switching.deadlineMs) {
      const { name } = service.options;
      this.#failSwitch(
        service,
        switching.phase === "asking"
          ? `Cannot switch ${name}: no answer from the arbiter within ${SWITCH_MS} ms`
          : switching.phase === "drain"
          ? `Cannot switch ${name}: the standby did not confirm all input within ${SWITCH_MS} ms`
          : `Cannot tell whether ${name} was switched: the peer did not answer within ${SWITCH_MS} ms`,
      );
    } else if (switching?.id === null && switching.phase === "asking") {
      // The arbiter may have been busy with another question; one that is under way asks for nothing.
      this.#perform(service, replica.requestSwitch(nowMs), nowMs);
    }
  }

  /** With logs on disk: says in which term ours is whole, and to a standby when its own is. */
  #tellWhole({ channel, core: { wasm }, disk, replica }: Service, nowMs: number): void {
    if (disk === null) return;
    if (replica.logTerm !== null) disk.setTerm(replica.logTerm);
    if (replica.role !== "primary" || channel === null || !channel.open || channel.isWhole) return;
    if (wasm.bringing() !== 0 || wasm.joining() > 0) return;
    channel.isWhole = true;
    channel.send({ kind: "whole", epoch: replica.epoch }, nowMs);
  }

  #perform(service: Service, effects: Effect[], nowMs: number): void {
    for (const effect of effects) {
      switch (effect.kind) {
        case "storeEpoch":
          writeEpoch(service.options.epochFile, effect.epoch);
          break;
        case "promote":
          this.#takeOver(service, effect, nowMs);
          break;
        case "follow":
          this.#follow(service, nowMs);
          break;
        case "leave":
          this.#channels.close(service, "another one is primary", nowMs);
          break;
        case "dropStandby":
          this.#dropStandby(service, effect.reason);
          break;
        case "silence":
          this.#silence(service, effect.reason, nowMs);
          break;
        case "handOver":
          if (service.switching?.phase !== "asking") break;
          service.switching.phase = "drain";
          service.switching.epoch = effect.epoch;
          service.switching.sinceMs = performance.now();
          break;
        case "keep":
          this.#endSwitch(service, effect.why);
          break;
        case "arbitrate":
          post({
            kind: "ask",
            service: service.options.name,
            ticket: effect.ticket,
            claim: effect.claim,
          });
          break;
        case "consult":
          post({
            kind: "ask",
            service: service.options.name,
            ticket: effect.ticket,
            claim: null,
          });
          break;
        case "probe":
          service.claim.heardRival(); // what was said before is no answer
          service.probe = { ticket: effect.ticket, untilMs: nowMs + PROBE_MS, nextMs: nowMs };
          break;
        case "judgement":
          this.#noteJudgement(service, effect);
          break;
      }
    }
  }

  /** Joins the primary, once what our disk has of former terms is gone. */
  #follow(service: Service, nowMs: number): void {
    const { channel, disk } = service;
    if (channel === null) disk?.beginAnew();
    if (disk === null || disk.isClear) this.#channels.connect(service, nowMs);
  }

  #dropStandby(service: Service, reason: string): void {
    const { options } = service;
    service.dropKeeper("standby");
    service.channel?.close();
    service.channel = null;
    service.chain.clear();
    service.tellBelow = 0;
    log("warn", "standby lost", { service: options.name, why: reason });
    this.#endSwitch(service, `the standby was lost (${reason})`);
  }

  /** A switch that has not handed over yet does not come about. */
  #endSwitch(service: Service, why: string): void {
    const { switching, options } = service;
    if (switching === null || switching.phase === "handed") return;
    this.#failSwitch(service, `Cannot switch ${options.name}: ${why}`);
  }

  #failSwitch(service: Service, message: string): void {
    const { switching, judge, options } = service;
    if (switching === null) return;
    service.switching = null;
    if (switching.id !== null) post({ kind: "error", id: switching.id, message });
    else {
      log("error", "hand-over failed", { service: options.name, why: message });
      this.#carryOut(service, judge.handleHandOverFailed(performance.now()), performance.now());
    }
  }

  /** Somebody else says that the address is theirs. */
  #noteRival(service: Service, nowMs: number): void {
    const { claim, options, probe, replica } = service;
    const mac = claim.heardRival();
    if (mac === null) return;
    if (probe !== null) {
      service.probe = null;
      this.#perform(service, replica.handleProbe(probe.ticket, mac, nowMs), nowMs);
    }
    if (replica.role !== "primary" || nowMs < service.nextAlarmMs) return;
    service.nextAlarmMs = nowMs + ALARM_EVERY_MS;
    log("error", "another host claims the address", {
      service: options.name,
      address: options.address,
      by: mac,
    });
    this.#remember(service, "another host claims the address", { by: mac });
  }

  #noteJudgement(
    service: Service,
    effect: { kind: "judgement"; judgement: string; evidence: Evidence },
  ): void {
    const { judgement, evidence } = effect;
    this.#remember(service, judgement, evidence);
    log("info", judgement, { service: service.options.name, ...evidence });
  }

  #remember({ judgements }: Service, judgement: string, evidence: Evidence): void {
    judgements.push({ at: new Date().toISOString(), judgement, evidence });
    if (judgements.length > JUDGEMENTS_MAX) judgements.shift();
  }

  /** Asks for the address again, or concludes that nobody answers. */
  #continueProbe(service: Service, nowMs: number): void {
    const { claim, probe, replica } = service;
    if (probe === null || nowMs < probe.nextMs) return;
    if (nowMs < probe.untilMs) {
      probe.nextMs = nowMs + PROBE_EVERY_MS;
      claim.probe();
      return;
    }
    service.probe = null;
    this.#perform(service, replica.handleProbe(probe.ticket, null, nowMs), nowMs);
  }

  #silence(service: Service, reason: string, nowMs: number): void {
    const { core, options } = service;
    service.claim.release();
    service.announceAtMs = [];
    core.wasm.setRole(CoreRole.silent);
    // What waits for a standby must never leave; without voice it is written nowhere.
    service.stopKeeping();
    core.wasm.standbyLost();
    do {
      core.wasm.begin(nowMs >>> 0);
      this.#write(service, core.wasm.settle());
    } while (core.wasm.heldCount() > 0);
    core.wasm.begin(nowMs >>> 0);
    service.channel?.close();
    service.channel = null;
    service.chain.clear();
    this.#endSwitch(service, reason);
    log("error", "retired", { service: options.name, why: reason });
  }

  /** Forgets all connections and ends them at our own server, who would wait for nobody. */
  #forget(service: Service, nowMs: number): void {
    const { wasm } = service.core;
    let more = true;
    while (more) {
      wasm.begin(nowMs >>> 0);
      more = wasm.forgetAll(1) !== 0;
      this.#write(service, wasm.settle());
    }
    wasm.begin(nowMs >>> 0);
  }

  /** Drain, adopt, claim, speak (DESIGN 5.6). */
  #takeOver(service: Service, effect: Effect & { kind: "promote" }, nowMs: number): void {
    const { core, options, replica } = service;
    const { wasm } = core;
    const suspectMs = performance.now();
    const peerStays = effect.reason !== "start" && effect.reason !== "peer-silent";
    if (!peerStays && service.channel !== null) this.#drainChannel(service);
    const confirmed = this.#adoptNext(service, effect, nowMs);
    const { disk } = service;
    if (effect.afresh) {
      this.#forget(service, nowMs);
      disk?.beginAnew();
      disk?.noteForgotten();
    }
    wasm.begin(performance.now() >>> 0);
    const isStored = disk?.keepsAll ?? false;
    const staying = peerStays
      ? Staying.peer
      : confirmed !== null
      ? Staying.next
      : isStored
      ? Staying.store
      : Staying.nobody;
    const keepers: Keeper[] = isStored ? ["disk"] : [];
    if (peerStays || confirmed !== null) keepers.push("standby");
    disk?.changeSource(true);
    const connections = wasm.promote(staying);
    service.startKeeping(keepers, confirmed === null ? wasm.messageSeq() : confirmed + 1);
    const adoptedMs = performance.now();
    service.claim.claim();
    // Stopped since the arbiter's word, we may have lost it: neighbours are not to be drawn here.
    if (replica.maySpeak(performance.now())) service.claim.announce();
    const claimedMs = performance.now();
    let firstByteMs = 0;
    let more = true;
    while (more) {
      wasm.begin(performance.now() >>> 0);
      more = wasm.speak() !== 0;
      const count = wasm.settle();
      if (staying !== Staying.nobody) this.#sendMessage(service, nowMs);
      else if (wasm.bodyLength() > 0) wasm.sealed();
      this.#write(service, count);
      if (firstByteMs === 0) firstByteMs = performance.now();
    }
    const spokenMs = performance.now();
    this.#wantServer(service, true, spokenMs);
    service.announceAtMs = ANNOUNCE_AGAIN_MS.map((ms) => claimedMs + ms);
    const heardMs = replica.heardMs;
    service.lastTakeover = {
      reason: effect.reason,
      epoch: effect.epoch,
      detectMs: effect.silentMs,
      takeoverMs: spokenMs - suspectMs,
      connections,
      at: new Date(wallMs(suspectMs)).toISOString(),
      timeline: {
        lastHeartbeatMs: heardMs === null ? null : wallMs(heardMs),
        suspectMs: wallMs(suspectMs),
        adoptedMs: wallMs(adoptedMs),
        claimedMs: wallMs(claimedMs),
        firstByteMs: wallMs(firstByteMs),
      },
    };
    // A pass that was under way goes on with an empty output list.
    wasm.begin(performance.now() >>> 0);
    log("info", "primary", {
      service: options.name,
      reason: effect.reason,
      epoch: effect.epoch,
      connections,
      detectMs: round(effect.silentMs),
      takeoverMs: round(spokenMs - suspectMs),
    });
  }

  /**
   * Who follows us becomes our standby where it stands, or has to begin anew.
   *
   * @returns The last message that it has confirmed, null when it does not go on.
   */
  #adoptNext(
    service: Service,
    { keeps, epoch }: Effect & { kind: "promote" },
    nowMs: number,
  ): number | null {
    const { chain, core: { wasm }, lastSeq, next, replica } = service;
    if (!keeps || next === null || !next.channel.open) {
      this.#channels.closeNext(service, "the primary of the chain has changed", nowMs);
      chain.clear();
      if (keeps) replica.handleChannelDown("it was lost as this node became primary");
      return null;
    }
    const { channel, logLimit } = next;
    const [confirmed] = chain.numbers;
    wasm.goOnAfter(lastSeq, confirmed);
    wasm.setPeerLogLimit(logLimit);
    chain.shift(replica.further, lastSeq);
    service.channel = channel;
    service.next = null;
    service.peerReady = false;
    service.further.clear();
    service.isTold = false;
    if (chain.isTelling) service.tellBelow = wasm.retell();
    channel.send({ kind: "lead", epoch }, nowMs);
    return confirmed;
  }

  /** Applies everything the peer had sent before it went silent. */
  #drainChannel(service: Service): void {
    const { channel } = service;
    if (channel === null) return;
    this.#drained = channel;
    // What the disk has no room for was not confirmed, so nobody was told of it.
    for (
      let i = 0;
      i < 64 && channel.open && service.channel === channel && !service.isDiskSlow;
      i++
    ) {
      let received = false;
      const trouble = channel.receive((frame, body) => {
        received = true;
        if (frame.kind === "data") this.#handleFrame(service, channel, frame, body);
      });
      if (trouble !== null || !received) break;
    }
    this.#drained = null;
    channel.close();
    service.channel = null;
  }

  // Planned switch ------------------------------------------------------------------------------

  #startSwitch(command: LoopCommand & { kind: "switch" }, nowMs: number): void {
    const { id, service: name, to, isLeaving = false } = command;
    const service = this.#services.find((s) => s.options.name === name);
    const refuse = (message: string) => post({ kind: "error", id, message });
    if (service === undefined) {
      const known = this.#services.map((s) => s.options.name).join(", ");
      return refuse(`Cannot switch ${name}: no such service, known are ${known}`);
    }
    const { replica } = service;
    if (replica.role !== "primary") {
      return refuse(`Cannot switch ${name} from here: this node is ${replica.role}, not primary`);
    }
    if (!replica.ready || !service.peerReady) {
      return refuse(`Cannot switch ${name}: no standby is ready`);
    }
    if (to !== undefined && to !== replica.partner) {
      return refuse(`Cannot switch ${name} to ${to}: its standby is ${replica.partner}`);
    }
    if (service.switching !== null || service.wantedSwitch !== null) {
      return refuse(`Cannot switch ${name}: a switch is under way`);
    }
    service.wantedSwitch = { id, untilMs: nowMs + SWITCH_MS, isLeaving };
    this.#continueSwitch(service, nowMs);
  }

  /** Begins the switch that is wanted as soon as the standby could go on with every connection. */
  #continueSwitch(service: Service, nowMs: number): void {
    const { core: { wasm }, options: { name }, replica, wantedSwitch } = service;
    if (wantedSwitch === null) return;
    const { id, untilMs, isLeaving } = wantedSwitch;
    const missing = wasm.joining();
    const isBehind = wasm.bringing() !== 0 || missing > 0;
    const isReady = replica.role === "primary" && replica.ready;
    if (isBehind && isReady && nowMs < untilMs) return;
    service.wantedSwitch = null;
    const refuse = (why: string) =>
      post({ kind: "error", id, message: `Cannot switch ${name}: ${why}` });
    if (!isReady) return refuse("the standby was lost");
    if (isBehind && !isLeaving) {
      return refuse(`the standby lacks a part of ${missing} connections; see holdfast connections`);
    }
    const effects = replica.requestSwitch(nowMs);
    if (effects.length === 0) {
      return refuse("the arbiter is being asked something else, try again");
    }
    this.#beginSwitch(service, { id, reason: "switch" }, nowMs);
    this.#perform(service, effects, nowMs);
  }

  #beginSwitch(service: Service, why: Pick<Switch, "id" | "reason">, nowMs: number): void {
    const deadlineMs = nowMs + SWITCH_MS;
    service.switching = { ...why, phase: "asking", sinceMs: nowMs, deadlineMs, epoch: 0 };
  }

  // Failures of servers -------------------------------------------------------------------------

  #situation(service: Service, nowMs: number): Situation {
    const { replica, peerReady } = service;
    const primary = replica.role === "primary";
    return {
      primary,
      peer: replica.partner,
      peerWorks: peerReady,
      canHandOver: primary && replica.ready && peerReady,
      nowMs,
    };
  }

  #carryOut(service: Service, effects: JudgeEffect[], nowMs: number): void {
    for (const effect of effects) {
      switch (effect.kind) {
        case "judgement":
          this.#noteJudgement(service, effect);
          break;
        case "handOver":
          // A switch that is under way takes the service to the same place.
          if (service.switching === null) {
            this.#beginSwitch(service, { id: null, reason: effect.reason }, nowMs);
          }
          break;
        case "releaseEnds":
          service.core.wasm.releaseEnds();
          break;
      }
    }
  }

  /** Does the card where clients arrive still work? */
  #lookAtCard(service: Service, nowMs: number): void {
    const { card, cardReader, claim, options } = service;
    service.nextLookMs = nowMs + LOOK_MS;
    if (cardReader === null) return;
    service.hasCarrier = cardReader.hasCarrier();
    const before = card.state;
    let neighbour: IpAddress | null = null;
    const asks = card.handleLook({
      nowMs,
      carrier: service.hasCarrier,
      received: cardReader.received(),
      primary: service.replica.role === "primary",
      canAsk: () => (neighbour = service.neighbour(nowMs)) !== null,
    });
    if (asks) claim.ask(neighbour!);
    if (card.state === "works" && before !== "works") {
      log("info", "network card works again", { service: options.name });
    }
    if (card.state === "no-carrier" && before !== card.state) {
      post({ kind: "cut", interfaceName: options.interfaceName });
    }
    const { seen } = card;
    if (seen === null) return;
    const what = `${options.interfaceName}: ${seen}`;
    const effects = service.judge.handleCardDown(what, this.#situation(service, nowMs));
    this.#carryOut(service, effects, nowMs);
  }

  /** What the core has found in this pass. */
  #judgeFindings(service: Service, nowMs: number): void {
    const { core, judge } = service;
    const count = core.wasm.takeFindings();
    if (count === 0) return;
    const situation = this.#situation(service, nowMs);
    this.#carryOut(service, judge.handleFindings(readFindings(core, count), situation), nowMs);
  }

  #noteApp(command: LoopCommand & { kind: "app" }, nowMs: number): void {
    const service = this.#services.find((s) => s.options.name === command.service);
    if (service === undefined) return;
    const { recoverer } = service;
    if (recoverer !== null) {
      if (command.ended !== null) recoverer.noteExit(command.ended, nowMs);
      else if (command.pid !== null) recoverer.noteStart(command.pid);
      return;
    }
    service.appRuns = command.ended === null;
    service.isUnhealthy = false;
    service.isForsaken = !service.appRuns;
    if (command.ended === null) {
      service.core.wasm.noteAppStart();
      return;
    }
    const effects = service.judge.handleAppExit(command.ended, this.#situation(service, nowMs));
    this.#carryOut(service, effects, nowMs);
  }

  // Whole logs ----------------------------------------------------------------------------------

  #addRecoverer(service: Service, nowMs: number): void {
    const { core, options, judgements } = service;
    if (options.log === null) return;
    const host = {
      flush: () => {
        const count = core.wasm.settle();
        this.#sendMessage(service, performance.now());
        this.#write(service, count);
      },
      onFailure: (reason: RecoveryReason, seen: string) => {
        if (this.#passOn(service, reason, seen)) return;
        judgements.splice(0, Math.max(0, judgements.length - JUDGEMENTS_MAX + 1));
        const evidence = { node: this.#options.node, act: "replay", seen };
        this.#noteJudgement(service, { kind: "judgement", judgement: reason, evidence });
      },
      onSettled: (settled: boolean) => post({ kind: "settled", service: options.name, settled }),
      findListeners: () => post({ kind: "find", service: options.name }),
      onRecovered: ({ last }: RecoveryStatus) =>
        log("info", "connections live again", { service: options.name, ...last }),
    };
    const { spawns } = options.log;
    service.recoverer = new Recoverer(core, { ports: options.ports, spawns, nowMs, host });
  }

  /** Our server has failed: moves the service to a standby whose server is fed, if there is one; true when it does. */
  #passOn(service: Service, reason: RecoveryReason, seen: string): boolean {
    const situation = this.#situation(service, performance.now());
    const verdict = handOverReason(reason);
    if (verdict === "switch" || !situation.canHandOver || service.core.wasm.canPass() === 0) {
      return false;
    }
    this.#carryOut(service, service.judge.handleFailure(verdict, seen, situation), situation.nowMs);
    return service.switching !== null;
  }

  /** With a log on disk: what it holds becomes our connections. */
  #readDisk({ disk, options, replica }: Service, nowMs: number): void {
    if (disk === null) return;
    const { name: service, address } = options;
    const startMs = performance.now();
    const found = disk.recover(openLogDirectory(options.log!.disk!.path), { service, address }, {
      nowMs,
      wallMs: wallMs(nowMs),
    });
    if (this.#options.peers.length > 0) replica.handleStored(found.term);
    const tookMs = Math.round(performance.now() - startMs);
    log("info", "log read", { service, ...found, tookMs });
    if (found.failed > 0) {
      log("warn", "connections in the log do not fit", { service, connections: found.failed });
    }
  }

  /** What the disk has stored meanwhile; true when something may leave for that. */
  #hearDisk(service: Service, disk: DiskLog, nowMs: number): boolean {
    const { channel, options, replica } = service;
    const isPrimary = replica.role === "primary";
    const news = disk.take(nowMs);
    switch (news) {
      case "lost":
        log("error", "the disk takes no more of the log: it protects nothing", {
          service: options.name,
        });
        if (isPrimary) service.dropKeeper("disk");
        // As in memory: the primary's disk has what we confirm, or has failed too.
        else if (channel !== null) channel.kept = channel.applied;
        break;
      case "rejoins":
        log("info", "the disk is told of all connections", { service: options.name });
        service.addKeeper("disk", options.logLimit);
        break;
      case "moved":
        if (isPrimary) service.noteKept("disk", disk.storedSeq!);
        else if (channel !== null) channel.kept = disk.storedSeq!;
        break;
    }
    return news !== null;
  }

  /** Where whole logs are kept: only the primary has a server, unless it is fed while it stands by. */
  #wantServer(service: Service, wanted: boolean, nowMs: number): void {
    if (service.recoverer === null) return;
    if (wanted) service.recoverer.notePromoted(nowMs, service.isWarm);
    if (service.isWarm) return;
    post({ kind: "serve", service: service.options.name, wanted });
  }

  #detach({ id, service: name }: LoopCommand & { kind: "detach" }, nowMs: number): void {
    const service = this.#services.find((s) => s.options.name === name);
    const recoverer = service?.recoverer ?? null;
    if (service?.replica.role !== "primary" || recoverer === null) {
      const message = `Cannot restart ${name} here: this node is not its primary`;
      return post({ kind: "error", id, message });
    }
    post({ kind: "reply", id, value: recoverer.restart(nowMs) });
  }

  /** True when the server is to be replaced. */
  #noteHang({ service: name, seen }: LoopCommand & { kind: "hang" }, nowMs: number): boolean {
    const service = this.#services.find((s) => s.options.name === name);
    if (service === undefined) return false;
    if (service.recoverer === null) {
      const isNews = !service.isUnhealthy;
      service.isUnhealthy = seen !== null;
      // A primary may try again to hand over; of a standby's server all is said.
      if (seen === null || (!isNews && service.replica.role !== "primary")) return false;
      const effects = service.judge.handleHang(seen, this.#situation(service, nowMs));
      this.#carryOut(service, effects, nowMs);
      return false;
    }
    if (seen === null || (service.replica.role !== "primary" && !service.isWarm)) return false;
    if (service.options.log!.spawns) {
      service.recoverer.noteHang(seen, nowMs);
      return true;
    }
    const evidence = { node: this.#options.node, act: "none", seen };
    this.#noteJudgement(service, { kind: "judgement", judgement: "app-hangs", evidence });
    return false;
  }

  /** While nothing is read: as soon as all input is committed and all output out, hand over. */
  #drain(service: Service, switching: Switch, nowMs: number): void {
    const { core, channel, replica } = service;
    const { wasm } = core;
    if (channel === null || wasm.heldCount() > 0 || wasm.isInputCommitted() === 0) return;
    if (switching.reason !== "switch") wasm.judgeEnds();
    wasm.markAll();
    while (wasm.dirty() !== 0) {
      wasm.begin(nowMs >>> 0);
      const count = wasm.settle();
      this.#sendMessage(service, nowMs);
      this.#write(service, count);
      if (service.channel === null) return;
    }
    wasm.demote();
    service.stopKeeping();
    service.disk?.changeSource(false);
    // The connections of a process that has ended are nobody's here, whatever its kernel still says.
    service.isForsaken = !service.appRuns;
    this.#wantServer(service, false, nowMs);
    wasm.relay(1);
    const { epoch } = switching;
    this.#perform(service, replica.handleHandedOver(epoch), nowMs);
    service.chain.clear();
    service.tellBelow = 0;
    service.lastSeq = 0;
    channel.send({ kind: "handover", epoch, reason: switching.reason }, nowMs);
    service.judge.handleHandedOver();
    service.announceAtMs = [];
    switching.phase = "handed";
  }

  #finishSwitch(service: Service, nowMs: number): void {
    const { switching, replica, options } = service;
    service.relayUntilMs = nowMs + RELAY_MS;
    if (switching === null) return;
    service.switching = null;
    const gapMs = nowMs - switching.sinceMs;
    const connections = service.core.wasm.recordsUsed();
    log("info", "handed over", {
      service: options.name,
      epoch: replica.epoch,
      reason: switching.reason,
      connections,
      gapMs: round(gapMs),
    });
    const { epoch, partner } = replica;
    const value: LoopSwitch = { service: options.name, to: partner!, epoch, connections, gapMs };
    if (switching.id !== null) post({ kind: "reply", id: switching.id, value });
  }

  // Commands ------------------------------------------------------------------------------------

  #takeCommands(nowMs: number): void {
    for (;;) {
      const text = take(this.#options.mailboxFd);
      if (text === null) return;
      const command = JSON.parse(text) as LoopCommand;
      switch (command.kind) {
        case "status":
          post({ kind: "reply", id: command.id, value: this.#status(nowMs) });
          break;
        case "connections":
          post({
            kind: "reply",
            id: command.id,
            value: this.#services.flatMap((service) => connectionsOf(service, nowMs)),
          });
          break;
        case "switch":
          this.#startSwitch(command, nowMs);
          break;
        case "key":
          this.#handleKey(command);
          post({ kind: "reply", id: command.id, value: null });
          break;
        case "app":
          this.#noteApp(command, nowMs);
          post({ kind: "reply", id: command.id, value: null });
          break;
        case "listeners":
          this.#services.find((s) => s.options.name === command.service)
            ?.recoverer?.noteListeners(command.pids);
          break;
        case "detach":
          this.#detach(command, nowMs);
          break;
        case "hang":
          post({ kind: "reply", id: command.id, value: this.#noteHang(command, nowMs) });
          break;
        case "stop":
          this.#stopping = true;
          post({ kind: "reply", id: command.id, value: null });
          break;
        case "verdict":
        case "register": {
          const service = this.#services.find((s) => s.options.name === command.service);
          if (service === undefined) break;
          const { replica } = service;
          const effects = command.kind === "verdict"
            ? replica.handleVerdict(command.verdict, nowMs)
            : replica.handleRegister(command.ticket, command.value, nowMs);
          this.#perform(service, effects, nowMs);
          break;
        }
      }
    }
  }

  #handleKey(command: KeyCommand): void {
    const keyring = this.#keyrings.get(command.peer);
    if (keyring === undefined) return;
    if (command.step === "install") {
      keyring.install(command.keyId, Uint8Array.fromHex(command.secret));
    } else if (command.step === "use") keyring.use(command.keyId);
    else keyring.keepOnly(command.keyId);
  }

  #status(nowMs: number): LoopStatus {
    const longestPassMs = this.#longestPassMs;
    this.#longestPassMs = 0;
    const silenceMs = this.#options.heartbeatMs * this.#options.detect;
    return {
      services: this.#services.map((service) => serviceStatus(service, nowMs)),
      links: this.#links.map((link) => linkStatus(link, nowMs, silenceMs)),
      refused: { ...this.#refusals.counts },
      longestPassMs,
    };
  }
}

/** The standby has room for more of what it has missed. */
function isBringing({ core, channel, isDiskSlow, isTold, replica, tellBelow }: Service): boolean {
  return channel !== null && channel.open && !isCrammed(channel) && !isDiskSlow &&
    replica.role === "primary" && (core.wasm.bringing() !== 0 || (tellBelow > 0 && !isTold));
}

/** A channel takes nothing now that can wait. */
function isCrammed(channel: Channel | null): boolean {
  return channel !== null && channel.open && (channel.hasBacklog || channel.isCongested);
}

/** A standby takes no more from its primary while its disk is far behind. */
function isHeldByDisk({ isDiskSlow, replica }: Service): boolean {
  return isDiskSlow && replica.role === "standby";
}

/** The core's newest findings; see core/judgement.ts. */
function readFindings({ wasm, view }: Core, count: number): CoreFinding[] {
  const size = wasm.findingSize();
  return Array.from({ length: count }, (_, index) => {
    const at = wasm.findings() + index * size;
    return {
      kind: FINDINGS[view.getUint32(at, true)],
      clientPort: view.getUint32(at + 8, true) & 0xffff,
      ours: view.getUint32(at + 12, true),
      theirs: view.getUint32(at + 16, true),
      waitedMs: view.getUint32(at + 20, true),
    };
  });
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

self.onmessage = (event: MessageEvent<LoopOptions>) => {
  let loop: DataLoop;
  try {
    loop = new DataLoop(event.data);
  } catch (error) {
    post({ kind: "failed", message: (error as Error).message });
    self.close();
    return;
  }
  post({ kind: "started" });
  try {
    loop.run();
    post({ kind: "stopped" });
  } catch (error) {
    // Whatever it was, the devices close with us: better silent than wrong (P6).
    post({ kind: "failed", message: (error as Error).stack ?? String(error) });
  }
  self.close();
};
