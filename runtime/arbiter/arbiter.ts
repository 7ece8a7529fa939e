/**
 * arbiter.ts - the register as a daemon sees it, whatever keeps it
 *
 * Theory of operation
 * The data plane asks the main thread, which asks one of these and answers the data plane: nothing
 * here is in a packet's way. Each back-end keeps to its own deadline, so every promise is settled.
 *
 *   witness   holdfast witness, by lines of JSON        witness_client.ts
 *   etcd      transactions through its JSON gateway     etcd.ts
 *   fence     a command that turns the other host off   fence.ts
 */

import type { ArbiterConfig, Config } from "../config.ts";
import type { ArbiterTimes } from "../protocol/replica.ts";
import type { Claim, Decision, RegisterValue } from "../protocol/register.ts";

/** Who decides. */
export interface Arbiter {
  /** Which of them it is. */
  readonly kind: ArbiterConfig["kind"];
  /** Where it is, for people. */
  readonly where: string;
  /** Whether it has answered the last question or ping; null before the first. */
  readonly reachable: boolean | null;
  /** What the roles' state machine must know of its answers. */
  readonly times: ArbiterTimes;
  /**
   * Claims an epoch for a service.
   *
   * @throws {Error} When there is no answer in time; the claim may have been granted all the same.
   */
  claim(service: string, claim: Claim): Promise<Decision>;
  /**
   * What the register holds; `undefined` when this kind has nothing that could be read.
   *
   * @throws {Error} When there is no answer in time.
   */
  read(service: string): Promise<RegisterValue | null | undefined>;
  /** Gives up what is under way and closes all connections. */
  close(): void;
}

/** The arbiter that a configuration names; null for none. */
export async function openArbiter(config: Config): Promise<Arbiter | null> {
  const { arbiter, name } = config.cluster;
  switch (arbiter?.kind) {
    case undefined:
      return null;
    case "witness": {
      const { WitnessClient } = await import("./witness_client.ts");
      return new WitnessClient(arbiter!.address, name);
    }
    case "etcd": {
      const { EtcdArbiter } = await import("./etcd.ts");
      return new EtcdArbiter(arbiter!.endpoints, name);
    }
    case "fence": {
      const { FenceArbiter } = await import("./fence.ts");
      return new FenceArbiter(arbiter!.command, arbiter!.gateway);
    }
  }
}
