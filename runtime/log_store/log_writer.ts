/**
 * log_writer.ts - starts and ends the thread that writes a service's log
 *
 * The lock on the directory is held as long as the thread may write: two daemons on one log would spoil it.
 *
 * Limits: STOP_MS for the thread to store what is left; then it is ended where it is, which is what a
 * crash does too.
 */
import { closeAll } from "../io/libc.ts";
import { eventFd } from "../io/socket.ts";
import type { Logger } from "../log.ts";
import type { DiskLogOptions } from "./disk_log.ts";
import { lockLog } from "./files.ts";
import type { LogOwner } from "./record.ts";
import { newRing, Ring } from "./ring.ts";
import type { LogWriterMessage, LogWriterOptions } from "./worker.ts";

const STOP_MS = 5000;

/** The writer of one log, from the main thread's side. */
export class LogWriter {
  /** What the data plane needs to know. */
  readonly options: DiskLogOptions;
  readonly #worker: Worker;
  readonly #lock: { close: () => void };
  readonly #ended = Promise.withResolvers<void>();
  #isStopped = false;

  /**
   * Starts the thread; it waits until the data plane has read the log.
   *
   * @param options `onFailure`: nothing can be stored, and what is stored must not be gone on from.
   * @throws {Error} When another process has the log, or the directory cannot be had.
   */
  constructor(
    options: {
      path: string;
      owner: LogOwner;
      holds: boolean;
      log: Logger;
      onFailure: (why: string) => void;
    },
  ) {
    const { path, owner, holds, log, onFailure } = options;
    this.#lock = lockLog(path);
    this.options = { path, ring: newRing(), eventFd: eventFd() };
    this.#worker = new Worker(new URL("./worker.ts", import.meta.url), {
      type: "module",
      name: "log-writer",
    });
    this.#worker.onmessage = (event: MessageEvent<LogWriterMessage>) => {
      const message = event.data;
      if (message.kind === "warn") {
        log.warn(message.text, { service: owner.service, ...message.fields });
        return;
      }
      this.#ended.resolve();
      if (message.kind === "failed") onFailure(message.message);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#ended.resolve();
      onFailure(event.message);
    };
    const writerOptions: LogWriterOptions = { ...this.options, owner, holds };
    this.#worker.postMessage(writerOptions);
  }

  /** Lets the thread store what is there, and ends it. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    const { ring, eventFd: fd } = this.options;
    new Ring(ring, fd).stop();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => timer = setTimeout(resolve, STOP_MS));
    await Promise.race([this.#ended.promise, late]);
    clearTimeout(timer);
    this.#worker.terminate();
    closeAll(fd);
    this.#lock.close();
  }
}
