/**
 * firewall.ts - the packet filter rules a service needs on its host
 *
 * Theory of operation
 * Two things are asked of the host's packet filter. Traffic of the service address must pass between
 * the client's interface and our TUN, untracked: connection tracking would judge translated sequence
 * numbers invalid after a takeover, and costs time. And what the server itself sends elsewhere must
 * leave under the host's own address (masquerading).
 *
 * Rules are placed with the first of iptables-legacy and iptables that the kernel obeys; where neither
 * does, masquerading is done with nft, and so is leaving untracked. A rule that is there already, say after a crash, is not placed
 * again. `close()` takes back what this object has placed or found.
 *
 * Limits: a firewall of bare nftables that drops forwarded packets has to let our TUN pass itself.
 * Sources: iptables(8), iptables-extensions(8), nft(8).
 */

import { runCommand } from "./command.ts";

/** Seconds to wait for the lock of iptables. */
const LOCK_WAIT_S = "5";

const TOOLS = {
  4: ["iptables-legacy", "iptables"],
  6: ["ip6tables-legacy", "ip6tables"],
} as const;

/** A rule of iptables. */
interface Rule {
  /** The program that placed it. */
  tool: string;
  /** "nat", "raw" or "filter". */
  table: string;
  /** "POSTROUTING". */
  chain: string;
  /** Match and target. */
  words: readonly string[];
}

/** The rules of one service in one IP version. */
export class Firewall {
  readonly #version: 4 | 6;
  readonly #nftTable: string;
  #placed: Rule[] = [];
  #hasNftTable = false;

  /**
   * Starts without rules.
   *
   * @param service Name of the service, from which the name of a table of nft is made.
   */
  constructor(version: 4 | 6, service: string) {
    this.#version = version;
    this.#nftTable = `holdfast_${service.replace(/[^a-zA-Z0-9]/g, "_")}`;
  }

  /**
   * Lets the traffic of `address` pass through the TUN, as far as there is a filter that would not,
   * and keeps it from being tracked, as far as the kernel can.
   */
  async letPass(address: string, tunName: string): Promise<void> {
    let isTracked = true;
    for (const tool of TOOLS[this.#version]) {
      const { code, output } = await runCommand([tool, "-w", LOCK_WAIT_S, "-S", "FORWARD"]);
      if (code === 0 && output.trim() !== "-P FORWARD ACCEPT") await this.#accept(tool, tunName);
      if (!isTracked) continue;
      for (const side of ["-s", "-d"]) {
        const words = [side, address, "-j", "CT", "--notrack"];
        const reason = await this.#place({ tool, table: "raw", chain: "PREROUTING", words });
        isTracked = reason !== null;
      }
    }
    if (isTracked && this.#hasNftTable) await this.#untrackWithNft(address);
  }

  /**
   * Gives packets from the network `source` the host's address when they leave it.
   *
   * @param source "169.254.12.4/30"
   * @param uplinkName The interface that leads to that network, whose forwarding is let pass too.
   * @returns Why it could not be done; null when it was.
   */
  async masquerade(source: string, uplinkName: string): Promise<string | null> {
    const reasons: string[] = [];
    const words = ["-s", source, "!", "-o", uplinkName, "-j", "MASQUERADE"];
    for (const tool of TOOLS[this.#version]) {
      const reason = await this.#place({ tool, table: "nat", chain: "POSTROUTING", words });
      if (reason !== null) {
        reasons.push(reason);
        continue;
      }
      await this.#accept(tool, uplinkName);
      return null;
    }
    const reason = await this.#masqueradeWithNft(source, uplinkName);
    return reason === null ? null : [...reasons, reason].join("; ");
  }

  /** Takes back every rule. */
  async close(): Promise<void> {
    for (const { tool, table, chain, words } of this.#placed.splice(0)) {
      await runCommand([tool, "-w", LOCK_WAIT_S, "-t", table, "-D", chain, ...words]);
    }
    if (this.#hasNftTable) {
      await runCommand(["nft", "delete", "table", this.#family, this.#nftTable]);
      this.#hasNftTable = false;
    }
  }

  /** Lets everything pass that is forwarded from or to an interface. */
  async #accept(tool: string, interfaceName: string): Promise<void> {
    for (const side of ["-i", "-o"]) {
      const words = [side, interfaceName, "-j", "ACCEPT"];
      await this.#place({ tool, table: "filter", chain: "FORWARD", words });
    }
  }

  /** Puts a rule first in its chain unless it is there; gives the reason of a failure. */
  async #place(rule: Rule): Promise<string | null> {
    const { tool, table, chain, words } = rule;
    const command = [tool, "-w", LOCK_WAIT_S, "-t", table];
    const check = await runCommand([...command, "-C", chain, ...words]);
    if (check.code !== 0) {
      const insert = await runCommand([...command, "-I", chain, ...words]);
      if (insert.code !== 0) return insert.complaint || `${tool} failed with ${insert.code}`;
    }
    this.#placed.push(rule);
    return null;
  }

  /** The name nft has for the IP version. */
  get #family(): string {
    return this.#version === 4 ? "ip" : "ip6";
  }

  /** Masquerades in a table of our own, which replaces one that a crash has left. */
  async #masqueradeWithNft(source: string, uplinkName: string): Promise<string | null> {
    const table = `table ${this.#family} ${this.#nftTable}`;
    const { code, complaint } = await runCommand(
      ["nft", "-f", "-"],
      `${table}
delete ${table}
${table} {
  chain postrouting {
    type nat hook postrouting priority 100;
    ${this.#family} saddr ${source} oifname != "${uplinkName}" masquerade
  }
}
`,
    );
    if (code !== 0) return complaint || `nft failed with ${code}`;
    this.#hasNftTable = true;
    return null;
  }

  /** Keeps the traffic of `address` from being tracked, in the table that made the host track. */
  async #untrackWithNft(address: string): Promise<void> {
    await runCommand(
      ["nft", "-f", "-"],
      `table ${this.#family} ${this.#nftTable} {
  chain prerouting {
    type filter hook prerouting priority -300;
    ${this.#family} saddr ${address} notrack
    ${this.#family} daddr ${address} notrack
  }
}
`,
    );
  }
}
