/**
 * daemon.ts - one node: orchestration around the data plane
 *
 * Theory of operation
 * The main thread prepares what the loop needs (namespaces, TUN devices, servers), starts the worker
 * with the descriptors and plain settings, and afterwards only talks: commands go into a mailbox the
 * loop polls, answers and log lines come back as messages. Nothing on this thread is in a packet's
 * way, and when the worker ends the devices close: the service is silent here (P6).
 *
 *   up:    service networks -> worker (TUNs, links, roles) -> servers
 *   down:  hand over where a standby is ready -> servers -> worker -> service networks
 *
 * Every question to the loop has a deadline of ASK_MS.
 */
import v8 from "node:v8";
import { AppRunner } from "./app.ts";
import { type Arbiter, openArbiter } from "./arbiter/arbiter.ts";
import type { Config, ServiceConfig } from "./config.ts";
import { parseAddress } from "./io/address.ts";
import { mustRun } from "./io/command.ts";
import { HealthCheck } from "./health_check.ts";
import { seedOf } from "./io/faketime.ts";
import { closeAll } from "./io/libc.ts";
import { listenersIn } from "./io/listeners.ts";
import { type ServiceNetwork, setUpServiceNetwork } from "./io/namespace.ts";
import { mailbox, post } from "./io/socket.ts";
import { LogWriter } from "./log_store/log_writer.ts";
import type { Logger } from "./log.ts";
import { PeerControl } from "./peer_control.ts";
import { Refusals } from "./refusals.ts";
import { ServerWatch } from "./server_watch.ts";
import type {
  LoopCommand,
  LoopConnection,
  LoopMessage,
  LoopOptions,
  LoopServiceOptions,
  LoopStatus,
  LoopSwitch,
} from "./loop/messages.ts";
import { LoopWatch } from "./protocol/loop_watch.ts";
import type { Role } from "./protocol/message.ts";
import type { Verdict } from "./protocol/replica.ts";
import type {
  ConnectionInfo,
  CopiesStatus,
  DaemonApi,
  DiskLogStatus,
  NodeStatus,
  RestartResult,
  SwitchResult,
} from "./status.ts";
import { VERSION } from "./version.ts";

/**
 * V8's garbage collector otherwise waits for helper threads, which a busy machine may not run for
 * tens of milliseconds: long enough for the peer to take over (measured: passes of 33 to 41 ms, with
 * this at most 16). Must be set before the worker's isolate is made.
 */
const V8_FLAGS = "--single-threaded-gc";
/** How long the loop may take to answer, milliseconds. */
const ASK_MS = 5000;
/** How long the loop may take to start or to stop, milliseconds. */
const START_MS = 10000;

/** How long `restart` waits for the new server to be where the clients are, milliseconds. */
const RESTART_MS = 30_000;
/** How often it looks, milliseconds. */
const RESTART_LOOK_MS = 20;

interface Running {
  network: ServiceNetwork;
  app: AppRunner | null;
  /** Where whole logs are kept, and a server is to run. */
  watch: ServerWatch | null;
  /** Of a service with a health command, where its server runs. */
  health: HealthCheck | null;
  /** Of a service with its log on disk. */
  writer: LogWriter | null;
}

interface Question {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
  timer: ReturnType<typeof setTimeout>;
}

/** Like Omit, for each member of a union. */
type WithoutId<T> = T extends { id: number } ? Omit<T, "id"> : never;

/**
 * Starts a node and resolves when its data plane runs.
 *
 * @throws {Error} When a device, an address or a link cannot be had; nothing stays behind.
 */
export async function startDaemon(config: Config, log: Logger): Promise<DaemonApi> {
  const daemon = new Daemon(config, log);
  try {
    await daemon.start();
  } catch (error) {
    await daemon.stop({ handOver: false });
    throw error;
  }
  return daemon;
}

class Daemon implements DaemonApi {
  readonly #config: Config;
  readonly #log: Logger;
  readonly #running = new Map<string, Running>();
  readonly #questions = new Map<number, Question>();
  #mailbox: { near: number; far: number } | null = null;
  #arbiter: Arbiter | null = null;
  #worker: Worker | null = null;
  readonly #passes = new Int32Array(new SharedArrayBuffer(4));
  #watch: ReturnType<typeof setInterval> | undefined;
  /** By peer; none for plain text. */
  readonly #peerControls = new Map<string, PeerControl>();
  readonly #refusals: Refusals;
  #nextId = 1;
  #dead: string | null = null;
  #stopped: Promise<void> | null = null;
  readonly #ended = Promise.withResolvers<string>();

  constructor(config: Config, log: Logger) {
    this.#config = config;
    this.#log = log;
    this.#refusals = new Refusals((text, fields) => log.warn(text, fields));
  }

  async start(): Promise<void> {
    const config = this.#config;
    await Deno.mkdir(config.node.stateDir, { recursive: true });
    const services: LoopServiceOptions[] = [];
    for (const service of config.services) {
      const network = await setUpServiceNetwork({
        service: service.name,
        netns: service.netns,
        address: service.address,
        interfaceName: service.interface,
        uplink: service.uplink,
      });
      const running: Running = { network, app: null, watch: null, health: null, writer: null };
      this.#running.set(service.name, running);
      if (service.log.store === "disk") running.writer = this.#startWriter(service);
      if (!network.uplink.up && service.uplink) {
        this.#log.warn("no uplink", { service: service.name, why: network.uplink.why });
      }
      services.push({
        name: service.name,
        address: service.address,
        addressBytes: parseAddress(service.address).bytes,
        ports: service.ports,
        commit: service.commit,
        copies: service.commitCopies,
        divergence: service.divergence,
        logLimit: service.keepsLogs ? service.log.limitBytes : service.logLimitBytes,
        rejoinLimit: service.rejoinLimitBytes,
        hint: service.hint,
        memoryMiB: Math.ceil(service.memoryBytes / (1 << 20)),
        capacity: service.maxConnections,
        refuseUnprotectable: service.unprotectable === "refuse",
        interfaceName: service.interface,
        mtu: network.mtu,
        tunName: network.netName,
        netFd: network.netFd,
        appFd: network.appFd,
        prefer: service.prefer,
        finWaitMs: service.finWaitMs,
        lagBytes: service.lagBytes,
        lagTimeMs: service.lagTimeMs,
        epochFile: `${config.node.stateDir}/${service.name}.epoch`,
        log: service.keepsLogs
          ? {
            isWarm: service.mode === "hot",
            holds: service.log.full === "hold",
            spawns: service.run !== null,
            disk: running.writer?.options ?? null,
          }
          : null,
      });
    }
    this.#mailbox = mailbox();
    this.#arbiter = await openArbiter(config);
    const { tls } = config.cluster;
    for (const peer of tls === null ? [] : config.peers) {
      const control = new PeerControl({
        node: config.node.name,
        peer,
        files: tls!,
        renewMs: tls!.renewMs,
        key: (command) => this.#ask(command),
        log: this.#log,
        refusals: this.#refusals,
      });
      this.#peerControls.set(peer.name, control);
      // Before the loop, which listens only for a while before it takes a service for free.
      await control.start();
    }
    await this.#startLoop({
      node: config.node.name,
      peers: config.peers.map(({ name, links }) => ({ name, links })),
      heartbeatMs: config.cluster.heartbeatMs,
      detect: config.cluster.detect,
      spinUs: config.cluster.spinUs,
      arbiter: this.#arbiter?.times ?? null,
      seal: tls === null ? null : { renewOctets: tls.renewOctets },
      passes: this.#passes.buffer,
      mailboxFd: this.#mailbox.far,
      services,
    });
    this.#watchLoop();
    for (const service of config.services) {
      // In log mode only a primary has a server: the loop says when.
      if (service.mode === "log") continue;
      const running = this.#running.get(service.name)!;
      if (service.keepsLogs) running.watch = this.#watchServer(service, running);
      this.#startHealthCheck(service);
      this.#startApp(service);
    }
  }

  #startWriter(service: ServiceConfig): LogWriter {
    return new LogWriter({
      path: `${this.#config.node.stateDir}/${service.name}.log`,
      owner: { service: service.name, address: service.address },
      holds: service.log.full === "hold",
      log: this.#log,
      onFailure: (why) => this.#die(why),
    });
  }

  /** Starts a service's server, if it is ours to start and does not run. */
  #startApp(service: ServiceConfig): void {
    const running = this.#running.get(service.name)!;
    if (service.run === null || running.app !== null) return;
    running.app = new AppRunner({
      service: service.name,
      netns: service.netns,
      command: service.run,
      user: service.user,
      chance: service.clockBaseS === null ? null : {
        baseS: service.clockBaseS,
        seed: seedOf(this.#config.cluster.name, service.name),
      },
      log: this.#log,
      onStart: (pid) => this.#tellApp(service.name, { pid, ended: null }),
      onExit: ({ how }) => this.#tellApp(service.name, { pid: null, ended: how }),
    });
    running.app.start();
  }

  /** Log mode: this node has become primary, or is so no longer. */
  #serve({ service: name, wanted }: LoopMessage & { kind: "serve" }): void {
    const running = this.#running.get(name);
    if (running === undefined || this.#dead !== null) return;
    this.#stopWatching(running);
    if (wanted) {
      const service = this.#config.services.find((s) => s.name === name)!;
      running.watch = this.#watchServer(service, running);
      this.#startHealthCheck(service);
      return this.#startApp(service);
    }
    const { app } = running;
    running.app = null;
    app?.stop().catch((error: Error) => {
      this.#log.error("cannot end a server", { service: name, why: error.message });
    });
  }

  /** Where whole logs are kept a server that hangs is replaced; one that others start is reported. */
  #watchServer({ name, netns, ports, lagTimeMs }: ServiceConfig, running: Running): ServerWatch {
    return new ServerWatch({
      netns,
      ports,
      lagTimeMs,
      onHang: (seen) => this.#replaceServer(name, running, seen),
      onGoesOn: () => this.#log.info("server goes on", { service: name }),
    });
  }

  /** Asks the service's health command, if it has one, after its server. */
  #startHealthCheck({ name, netns, ports, user, keepsLogs, health }: ServiceConfig): void {
    if (health === null) return;
    const running = this.#running.get(name)!;
    running.health = new HealthCheck({
      netns,
      ports,
      user,
      health,
      settled: !keepsLogs,
      onHang: (seen, again) => {
        // Where none can be started in its place, a hand-over that failed is tried again.
        if (!again || !keepsLogs) this.#replaceServer(name, running, seen);
      },
      onGoesOn: () => {
        this.#log.info("server is healthy again", { service: name });
        this.#tell({ kind: "hang", service: name, seen: null });
      },
      onUseless: (seen) =>
        this.#log.warn("health command has never succeeded, and is not believed", {
          service: name,
          seen,
        }),
    });
  }

  /** Tells the loop of a server that hangs, and where whole logs are kept starts another one in its place. */
  async #replaceServer(name: string, running: Running, seen: string): Promise<void> {
    try {
      const isReplaced = await this.#ask<boolean>({ kind: "hang", service: name, seen });
      if (!isReplaced) return;
      running.health?.noteEnd();
      await running.app?.restart({ hangs: true });
    } catch (error) {
      this.#log.warn("cannot replace a server", { service: name, why: (error as Error).message });
    }
  }

  /** The loop wants to know whether a service's server runs. */
  #tellApp(service: string, news: { pid: number | null; ended: string | null }): void {
    this.#running.get(service)?.health?.noteEnd();
    if (this.#dead !== null || this.#mailbox === null) return;
    this.#ask({ kind: "app", service, ...news }).catch((error: Error) => {
      this.#log.warn("cannot tell the data plane about a server", { service, why: error.message });
    });
  }

  /** Log mode: the loop looks at the processes of a server that somebody else has started. */
  #findListeners(service: string): void {
    const { netns, ports } = this.#config.services.find(({ name }) => name === service)!;
    this.#tell({ kind: "listeners", service, pids: listenersIn(netns, ports) });
  }

  /** Tells the operator of a loop that hangs: by itself it can say nothing. */
  #watchLoop(): void {
    const { heartbeatMs, detect } = this.#config.cluster;
    const watch = new LoopWatch(heartbeatMs * detect);
    this.#watch = setInterval(() => {
      const found = watch.handleLook(this.passes, performance.now());
      if (found?.kind === "stands") {
        this.#log.error("data plane stands still", { forMs: Math.round(found.forMs) });
      } else if (found !== null) {
        this.#log.warn("data plane goes on", { stoodMs: Math.round(found.stoodMs) });
      }
    }, watch.everyMs);
  }

  #startLoop(options: LoopOptions): Promise<void> {
    v8.setFlagsFromString(V8_FLAGS);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () => reject(new Error(`Cannot start the data plane: no word from it in ${START_MS} ms`)),
      START_MS,
    );
    const worker = new Worker(new URL("./loop.ts", import.meta.url), {
      type: "module",
      name: "data-plane",
    });
    this.#worker = worker;
    worker.onmessage = (event: MessageEvent<LoopMessage>) => {
      const message = event.data;
      switch (message.kind) {
        case "started":
          clearTimeout(timer);
          resolve();
          break;
        case "failed":
          clearTimeout(timer);
          this.#die(message.message);
          reject(new Error(message.message));
          break;
        case "log":
          this.#log[message.level](message.text, message.fields);
          break;
        case "reply":
          this.#settle(message.id)?.resolve(message.value);
          break;
        case "error":
          this.#settle(message.id)?.reject(new Error(message.message));
          break;
        case "ask":
          this.#askArbiter(message);
          break;
        case "serve":
          this.#serve(message);
          break;
        case "settled":
          this.#running.get(message.service)?.health?.noteSettled(message.settled);
          break;
        case "cut":
          // Packets that wait until a neighbour is found would be said when the cable is back.
          mustRun("ip", "neigh", "flush", "dev", message.interfaceName, "nud", "incomplete")
            .catch((error: Error) => {
              this.#log.warn("cannot drop what waits for neighbours", { why: error.message });
            });
          break;
        case "find":
          this.#findListeners(message.service);
          break;
        case "worn":
          this.#peerControls.get(message.peer)?.noteWorn();
          break;
        case "stopped":
          break;
      }
    };
    worker.onerror = (event) => {
      event.preventDefault();
      clearTimeout(timer);
      this.#die(event.message);
      reject(new Error(event.message));
    };
    worker.postMessage(options);
    return promise;
  }

  /** Brings a question of the loop to the arbiter, and the answer back. */
  async #askArbiter({ service, ticket, claim }: LoopMessage & { kind: "ask" }): Promise<void> {
    const arbiter = this.#arbiter!;
    if (claim === null) {
      const value = await arbiter.read(service).catch(() => undefined);
      this.#tell({ kind: "register", service, ticket, value });
      return;
    }
    let verdict: Verdict;
    try {
      const { granted, value } = await arbiter.claim(service, claim);
      verdict = granted
        ? { ticket, kind: "granted", heirs: value?.heirs }
        : { ticket, kind: "lost", value };
    } catch (error) {
      verdict = { ticket, kind: "unreachable", why: (error as Error).message.slice(0, 200) };
    }
    this.#tell({ kind: "verdict", service, verdict });
  }

  /** Tells the loop something that it gives no answer to; it waits no longer than it must. */
  #tell(command: WithoutId<LoopCommand>): void {
    if (this.#mailbox === null) return;
    if (!post(this.#mailbox.near, JSON.stringify({ id: 0, ...command }))) {
      this.#log.warn("data plane too busy", { for: command.kind });
    }
  }

  /** The loop is gone: close the devices, so that nobody is answered from here. */
  #die(why: string): void {
    if (this.#dead !== null) return;
    this.#dead = why;
    clearInterval(this.#watch);
    this.#log.error("data plane ended", { why });
    this.#ended.resolve(why);
    this.#stopWatches();
    for (const { network } of this.#running.values()) {
      network.silence();
    }
    for (const id of [...this.#questions.keys()]) {
      this.#settle(id)?.reject(new Error(`The data plane ended: ${why}`));
    }
  }

  #settle(id: number): Question | undefined {
    const question = this.#questions.get(id);
    if (question !== undefined) clearTimeout(question.timer);
    this.#questions.delete(id);
    return question;
  }

  #ask<T>(command: WithoutId<LoopCommand>): Promise<T> {
    if (this.#dead !== null) {
      return Promise.reject(new Error(`The data plane ended: ${this.#dead}`));
    }
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const timer = setTimeout(() => {
      this.#questions.delete(id);
      reject(new Error(`No answer from the data plane to ${command.kind} within ${ASK_MS} ms`));
    }, ASK_MS);
    this.#questions.set(id, { resolve, reject, timer });
    if (!post(this.#mailbox!.near, JSON.stringify({ id, ...command }))) {
      this.#settle(id);
      return Promise.reject(new Error("The data plane is too busy to take a command"));
    }
    return promise as Promise<T>;
  }

  /** Why the data plane ended by itself, once it has. */
  get ended(): Promise<string> {
    return this.#ended.promise;
  }

  /** Passes that the data plane has made. */
  get passes(): number {
    return Atomics.load(this.#passes, 0);
  }

  async status(): Promise<NodeStatus> {
    const loop = await this.#ask<LoopStatus>({ kind: "status" });
    const arbiter = this.#arbiter;
    return {
      node: this.#config.node.name,
      version: VERSION,
      arbiter: arbiter === null
        ? null
        : { kind: arbiter.kind, where: arbiter.where, reachable: arbiter.reachable },
      services: loop.services.map((service) => {
        const config = this.#config.services.find((s) => s.name === service.name)!;
        const { app = null, watch = null, health = null } = this.#running.get(service.name) ?? {};
        return {
          name: service.name,
          address: config.address,
          ports: config.ports,
          mode: config.mode,
          role: service.role,
          epoch: service.epoch,
          protected: service.protected,
          app: app !== null
            ? app.status()
            : { state: config.run === null ? "external" : "stopped", pid: null },
          connections: service.connections,
          lastTakeover: service.lastTakeover,
          counters: service.counters,
          arbitration: service.arbitration,
          speaks: service.speaks,
          judgements: service.judgements,
          warnings: [
            ...(service.appHangs || watch?.hangs || health?.hangs ? ["its server hangs"] : []),
            ...(service.spareOf === null
              ? []
              : [`spare: ${service.spareOf} is primary and has another standby`]),
            ...copiesWarnings(service.role, service.copies),
            ...storeWarnings(service.store),
            ...(service.card.seen === null ? [] : [`${config.interface}: ${service.card.seen}`]),
          ],
          recovery: service.recovery,
          store: service.store,
          copies: service.copies,
        };
      }),
      peers: this.#config.peers.map((peer) => ({
        name: peer.name,
        links: loop.links.filter((link) => link.peer === peer.name).map(({ peer: _, ...link }) =>
          link
        ),
        control: this.#controlState(peer.name),
        refused: { ...loop.refused, control: this.#refusals.counts.control },
      })),
    };
  }

  async connections(): Promise<ConnectionInfo[]> {
    return await this.#ask<LoopConnection[]>({ kind: "connections" });
  }

  async switchService(service: string, to?: string): Promise<SwitchResult> {
    const { node, peers } = this.#config;
    if (to === node.name) {
      throw new Error(`Cannot switch ${service} to ${to}: that is this node`);
    }
    const known = peers.map(({ name }) => name);
    if (to !== undefined && !known.includes(to)) {
      const names = known.join(", ") || "none";
      throw new Error(`Cannot switch ${service} to "${to}": known peers are ${names}`);
    }
    const result = await this.#ask<LoopSwitch>({ kind: "switch", service, to });
    return { ...result, from: node.name };
  }

  #controlState(peer: string): "up" | "down" | null {
    const control = this.#peerControls.get(peer);
    return control === undefined ? null : control.isUp ? "up" : "down";
  }

  async restartService(service: string): Promise<RestartResult> {
    const config = this.#config.services.find(({ name }) => name === service);
    if (config === undefined) {
      const known = this.#config.services.map(({ name }) => name).join(", ");
      throw new Error(`Cannot restart ${service}: no such service, known are ${known}`);
    }
    if (!config.keepsLogs) {
      throw new Error(
        `Cannot restart ${service}: its mode is "hot" without a table log, allowed are "log" and "hot" with one`,
      );
    }
    const app = this.#running.get(service)?.app ?? null;
    if (config.run !== null && app === null) {
      throw new Error(`Cannot restart ${service} here: this node is not its primary`);
    }
    if (app === null) {
      throw new Error(
        `Cannot restart ${service}: its server is not started by this node ("run"); end it and ` +
          "start it again yourself, its clients wait",
      );
    }
    const startMs = performance.now();
    const connections = await this.#ask<number>({ kind: "detach", service });
    await app.restart();
    for (;;) {
      const { services } = await this.#ask<LoopStatus>({ kind: "status" });
      const recovery = services.find(({ name }) => name === service)?.recovery ?? null;
      const tookMs = performance.now() - startMs;
      if (recovery?.state === "live") return { service, connections, tookMs };
      if (tookMs > RESTART_MS) {
        throw new Error(
          `The new server of ${service} has not caught up within ${RESTART_MS} ms; its clients ` +
            'go on waiting, see "holdfast status"',
        );
      }
      await new Promise((resolve) => setTimeout(resolve, RESTART_LOOK_MS));
    }
  }

  stop(options: { handOver: boolean }): Promise<void> {
    this.#stopped ??= this.#stop(options);
    return this.#stopped;
  }

  async #stop({ handOver }: { handOver: boolean }): Promise<void> {
    if (handOver && this.#dead === null && this.#worker !== null) await this.#handOverAll();
    clearInterval(this.#watch);
    this.#stopWatches();
    // The loop first: once its devices are silent, what dying servers say reaches nobody (P4).
    if (this.#worker !== null && this.#dead === null) {
      try {
        await this.#ask({ kind: "stop" });
      } catch (error) {
        this.#log.warn("data plane did not stop", { why: (error as Error).message });
      }
    }
    for (const control of this.#peerControls.values()) control.stop();
    this.#worker?.terminate();
    // What the loop has said last is stored, so that a new start finds it.
    await Promise.all([...this.#running.values()].map(({ writer }) => writer?.stop()));
    this.#arbiter?.close();
    this.#dead ??= "stopped";
    await Promise.all([...this.#running.values()].map(({ app }) => app?.stop()));
    for (const { network } of this.#running.values()) await network.close();
    if (this.#mailbox !== null) closeAll(this.#mailbox.near, this.#mailbox.far);
    this.#mailbox = null;
  }

  #stopWatches(): void {
    for (const running of this.#running.values()) this.#stopWatching(running);
  }

  #stopWatching(running: Running): void {
    running.watch?.stop();
    running.watch = null;
    running.health?.stop();
    running.health = null;
  }

  async #handOverAll(): Promise<void> {
    let services: LoopStatus["services"];
    try {
      services = (await this.#ask<LoopStatus>({ kind: "status" })).services;
    } catch {
      return;
    }
    for (const { name, role, protected: ready } of services) {
      if (role !== "primary" || !ready) continue;
      try {
        const command = { kind: "switch", service: name, isLeaving: true } as const;
        const result = await this.#ask<LoopSwitch>(command);
        this.#log.info("handed over before stopping", { ...result });
        // What clients sent before they learnt of the new place is still passed on.
        await new Promise((resolve) => setTimeout(resolve, 150));
      } catch (error) {
        this.#log.warn("cannot hand over", { service: name, why: (error as Error).message });
      }
    }
  }
}

/** More copies are wanted than there are. */
function copiesWarnings(role: Role, { held, wanted }: CopiesStatus): string[] {
  if (role !== "primary" || wanted < 2 || held >= wanted) return [];
  return [`held by ${held} other replicas, commit_copies is ${wanted}`];
}

function storeWarnings(store: DiskLogStatus | null): string[] {
  switch (store?.state) {
    case "full":
      return ["the disk of its log is full: clients wait"];
    case "lost":
      return ["the disk takes no more of its log"];
    default:
      return [];
  }
}
