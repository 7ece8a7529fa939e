/**
 * resumption.ts - moves a channel to another link when its own carries no more
 *
 * Theory of operation
 * Between hosts with several links a channel outlives its connection (channel.ts). Who has opened it
 * watches the link that it uses, and opens the next connection; the other side waits for that.
 *
 *   behind the others, and still a heartbeat later ──> suspended ──> connect over one that is not
 *   the connection broke ────────────────────────────>    └──────────> resume, resumed ──> live
 *
 * Neither a takeover nor the loss of what the standby holds follows from one link's end. A peer that is
 * gone is silent on all links, which ends the channel sooner than this.
 *
 * Limits: RESUME_MS without a connection that carries, then the channel is closed as it would be
 * without another link; TRY_MS for one attempt, PAUSE_MS between two.
 */
import type { Channel } from "./channel.ts";
import { isBehind, linkFor, type LinkProgress } from "./protocol/links.ts";

/** A channel without a connection is given up after so long. */
export const RESUME_MS = 1000;
const TRY_MS = 250;
const PAUSE_MS = 50;

/** What the loop knows and does. */
export interface Surroundings {
  /** All links to the peer. */
  links: readonly LinkProgress[];
  /** Beats that a link may be behind the others. */
  detect: number;
  /** Interval of beats, milliseconds. */
  heartbeatMs: number;
  /** Now, milliseconds of the loop's clock. */
  nowMs: number;
  /** Begins a connection over a link and attaches it to the channel. */
  connect: (link: number) => void;
  /** Takes what happens. */
  log: (text: string, fields: Record<string, unknown>) => void;
}

/**
 * Does what is due for a channel; call it in every pass.
 *
 * @returns Null, or why the channel is of no more use.
 */
export function keepUp(channel: Channel, around: Surroundings): string | null {
  if (!channel.canResume) return null;
  const { links, detect, nowMs } = around;
  watch(channel, around);
  const sinceMs = channel.suspendedSinceMs;
  if (sinceMs === null) return null;
  if (nowMs - sinceMs > RESUME_MS) return `it could not be resumed within ${RESUME_MS} ms`;
  if (!channel.connects) return null;
  if (channel.fd >= 0) {
    if (nowMs - channel.attachedMs <= TRY_MS) return null;
    channel.suspend(nowMs);
  }
  if (nowMs - channel.attachedMs < PAUSE_MS) return null;
  channel.attachedMs = nowMs;
  around.connect(linkFor(channel.attempts++, links, detect));
  return null;
}

/** Suspends a channel whose link has fallen behind, unless the next look shows that it has not. */
function watch(channel: Channel, { links, detect, heartbeatMs, nowMs, log }: Surroundings): void {
  const { link } = channel;
  if (link === null || channel.suspendedSinceMs !== null) return;
  if (!isBehind(links[link], links, detect)) {
    channel.behindSinceMs = null;
    return;
  }
  channel.behindSinceMs ??= nowMs;
  if (nowMs - channel.behindSinceMs < heartbeatMs) return;
  channel.behindSinceMs = null;
  channel.suspend(nowMs);
  log("link carries no more", { link });
}
