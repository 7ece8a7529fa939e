/**
 * fence.ts - two hosts alone: turn the other one off before speaking
 *
 * Theory of operation
 * There is no register. A claim is granted when the gateway answers an echo, so that it is not we who
 * are cut off, and then the command has ended with status 0 within COMMAND_MS, which must mean: the
 * other host is off, and stays off until somebody turns it on again. The command finds in its
 * environment HOLDFAST_SERVICE, HOLDFAST_NODE and HOLDFAST_EPOCH.
 *
 *   gateway silent, or another status  -> no answer: a standby does not take over, a primary that
 *                                         misses its standby stays silent; asked again
 *
 * In a partition both sides may reach for the other's switch. The standby does so at once; a primary
 * waits PATIENCE_MS for its standby first, so a command that cuts the power sooner meets no duel.
 *
 * Limits: GATEWAY_MS for the gateway, COMMAND_MS for the command, one command at a time.
 */

import { answersEcho } from "../io/echo.ts";
import type { ArbiterTimes } from "../protocol/replica.ts";
import type { Claim, Decision, RegisterValue } from "../protocol/register.ts";
import type { Arbiter } from "./arbiter.ts";

const GATEWAY_MS = 1000;
const COMMAND_MS = 30_000;
const PATIENCE_MS = 2000;
/** Characters of what a failed command said. */
const SAID_MAX = 120;

/** Turns the other host off. */
export class FenceArbiter implements Arbiter {
  /** Always "fence". */
  readonly kind = "fence";
  /** The command. */
  readonly where: string;
  /** A host that was turned off claims nothing, so a grant does not grow old. */
  readonly times: ArbiterTimes = {
    answerMs: GATEWAY_MS + COMMAND_MS + 2000,
    grantMs: Infinity,
    patienceMs: PATIENCE_MS,
  };
  readonly #command: readonly string[];
  readonly #gateway: string;
  #running: Promise<unknown> = Promise.resolve();
  #child: Deno.ChildProcess | null = null;
  #reachable: boolean | null = null;

  /**
   * Notes what to run; nothing is run yet.
   *
   * @param command Program and arguments.
   * @param gateway Address of a host that answers as long as we are not cut off.
   */
  constructor(command: readonly string[], gateway: string) {
    this.#command = command;
    this.#gateway = gateway;
    this.where = command.join(" ");
  }

  /** See {@linkcode Arbiter.reachable}: whether the gateway answered and the command did its work. */
  get reachable(): boolean | null {
    return this.#reachable;
  }

  /** See {@linkcode Arbiter.claim}. */
  async claim(service: string, claim: Claim): Promise<Decision> {
    const turn = this.#running.catch(() => {}).then(() => this.#fence(service, claim));
    this.#running = turn;
    try {
      await turn;
      this.#reachable = true;
    } catch (error) {
      this.#reachable = false;
      throw error;
    }
    const { epoch, owner, token, expect } = claim;
    return { granted: true, value: { epoch, owner, token, follows: expect } };
  }

  /** There is nothing to read. */
  read(): Promise<RegisterValue | null | undefined> {
    return Promise.resolve(undefined);
  }

  /** Ends a command that runs. */
  close(): void {
    this.#child?.kill("SIGKILL");
  }

  async #fence(service: string, { epoch, owner }: Claim): Promise<void> {
    if (!await answersEcho(this.#gateway, GATEWAY_MS)) {
      throw new Error(`the gateway ${this.#gateway} does not answer`);
    }
    const [program, ...args] = this.#command;
    const child = new Deno.Command(program, {
      args,
      env: {
        HOLDFAST_SERVICE: service,
        HOLDFAST_NODE: owner,
        HOLDFAST_EPOCH: String(epoch),
      },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#child = child;
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      child.kill("SIGKILL");
    }, COMMAND_MS);
    try {
      const { code, signal, stderr } = await child.output();
      if (code === 0) return;
      const said = new TextDecoder().decode(stderr).trim().slice(-SAID_MAX);
      const how = isLate ? `no end within ${COMMAND_MS} ms` : signal ?? `status ${code}`;
      throw new Error(`the fence command failed: ${how}${said === "" ? "" : `: ${said}`}`);
    } finally {
      clearTimeout(timer);
      this.#child = null;
    }
  }
}
