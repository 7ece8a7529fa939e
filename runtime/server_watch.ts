/**
 * server_watch.ts - looks now and then whether a service's server is stopped, and tells when it hangs
 *
 * Theory of operation
 * On the main thread, as /proc is slow. Those that listened at the last search are looked at, and
 * searched for again when one of them is gone. When all of them are stopped every process with a socket of
 * the service is searched for, at each look, so that one that has started meanwhile counts. protocol/hang_watch.ts decides.
 */
import { isStopped, lifeOf } from "./io/exiting.ts";
import { listenersIn, serversIn } from "./io/listeners.ts";
import { HangWatch } from "./protocol/hang_watch.ts";

/** What is watched, and who is told. */
export interface ServerWatchOptions {
  /** Network namespace of the server. */
  netns: string;
  /** Ports of the service. */
  ports: readonly number[];
  /** For how long it may stand still, milliseconds. */
  lagTimeMs: number;
  /** It hangs: what was seen, in words. */
  onHang: (seen: string) => void;
  /** It goes on, or another one serves. */
  onGoesOn: () => void;
}

/** Watches one server, from now on. */
export class ServerWatch {
  readonly #options: ServerWatchOptions;
  readonly #watch: HangWatch;
  readonly #timer: ReturnType<typeof setInterval>;
  /** Who listened at the last search. */
  #listeners: number[] = [];

  /** Looks at once every few hundred milliseconds until `stop()`. */
  constructor(options: ServerWatchOptions) {
    this.#options = options;
    this.#watch = new HangWatch(options.lagTimeMs);
    this.#timer = setInterval(() => this.#look(), this.#watch.everyMs);
  }

  /** It was found to hang, and has not gone on since. */
  get hangs(): boolean {
    return this.#watch.hangs;
  }

  /** Looks no more. */
  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const stopped = this.#stopped();
    const found = this.#watch.handleLook(stopped.length > 0, performance.now());
    if (found?.kind === "goesOn") this.#options.onGoesOn();
    if (found?.kind !== "hangs") return;
    const forMs = Math.round(found.forMs);
    this.#options.onHang(`processes ${stopped.join(", ")} were stopped for ${forMs} ms`);
  }

  /** The processes of a server that is stopped as a whole; none otherwise. */
  #stopped(): number[] {
    const { netns, ports } = this.#options;
    if (this.#listeners.length > 0 && this.#listeners.every(isStopped)) {
      const servers = serversIn(netns, ports);
      return servers.every(isStopped) ? servers : [];
    }
    const isKnown = this.#listeners.length > 0 &&
      this.#listeners.every((pid) => lifeOf(pid) !== "gone");
    if (!isKnown) this.#listeners = listenersIn(netns, ports);
    return [];
  }
}
