/**
 * worker.ts - the thread that writes a service's log to the disk
 *
 * It waits in fdatasync(2) for as long as the disk takes, and nobody waits for it but what must not
 * leave before it is stored. It takes from the ring until the main thread says that it is to end.
 *
 * Limits: it looks whether it is to end at least every WAIT_MAX_MS; see storing.ts.
 */
/// <reference lib="deno.worker" />
import { keepOnlyCapabilities } from "../io/capabilities.ts";
import type { DiskLogOptions } from "./disk_log.ts";
import { openLogDirectory } from "./files.ts";
import type { LogOwner } from "./record.ts";
import { Ring } from "./ring.ts";
import { Storing } from "./storing.ts";

const WAIT_MAX_MS = 1000;

/** What the worker is started with; plain data. */
export interface LogWriterOptions extends DiskLogOptions {
  /** Whose log it is. */
  owner: LogOwner;
  /** On a full disk clients wait, instead of becoming unprotected. */
  holds: boolean;
}

/** What the worker posts. */
export type LogWriterMessage =
  | { kind: "warn"; text: string; fields: Record<string, unknown> }
  /** Nothing can be stored, and what is on the disk cannot be removed: the node has to end. */
  | { kind: "failed"; message: string }
  | { kind: "stopped" };

function say(message: LogWriterMessage): void {
  self.postMessage(message);
}

function run({ ring: buffer, eventFd, path, owner, holds }: LogWriterOptions): void {
  keepOnlyCapabilities(["CAP_DAC_OVERRIDE"]);
  const ring = new Ring(buffer, eventFd);
  const start = ring.awaitStart();
  if (start === null) return;
  const storing = new Storing({
    files: openLogDirectory(path),
    owner,
    ring,
    holds,
    random: () => crypto.getRandomValues(new Uint32Array(1))[0],
    warn: (text, fields) => say({ kind: "warn", text, fields }),
  }, start);
  for (;;) {
    const { wakes } = ring;
    if (ring.isStopping && ring.peek() === null) break;
    const waitMs = storing.step(performance.now());
    if (waitMs > 0) ring.sleep(wakes, Math.min(waitMs, WAIT_MAX_MS));
  }
  storing.close();
}

self.onmessage = (event: MessageEvent<LogWriterOptions>) => {
  try {
    run(event.data);
    say({ kind: "stopped" });
  } catch (error) {
    const { service } = event.data.owner;
    say({ kind: "failed", message: `The log of ${service}: ${(error as Error).message}` });
  }
  self.close();
};
