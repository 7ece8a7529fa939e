/**
 * uplink.ts - the ordinary way out for what a server does beside its service
 *
 * Theory of operation
 * A veth pair joins the host and the service namespace; the namespace's default route leads through it,
 * and the host forwards and masquerades. A server that asks a name server or a database leaves this
 * way, under the host's address; packets from the service address never do (see namespace.ts).
 *
 *   host   hfu<hash>  169.254.x.y+1/30   ----veth----   hf-up  169.254.x.y+2/30   service namespace
 *                     fd48:6f6c:6466:n::1/64                   fd48:6f6c:6466:n::2/64
 *
 * Which of the NETWORKS small networks is taken follows from a hash of the service and the namespace, so
 * a restart finds the same; one that overlaps an address of this host is passed over. Both ends go away
 * with either. IPv6 is set up only on a host that has an IPv6 address itself.
 *
 * Sources: veth(4), RFC 3927 section 2.1 (link-local IPv4, whose first and last 256 addresses are
 * reserved), RFC 4193 (unique local IPv6).
 */

import { type IpAddress, parseAddress } from "./address.ts";
import { mustRun, runCommand } from "./command.ts";
import type { Firewall } from "./firewall.ts";
import { enableForwarding } from "./forwarding.ts";
import { writeSysctlIfPresent } from "./sysctl.ts";

/** Name of the end inside the namespace. */
const INSIDE_NAME = "hf-up";
/** Networks of four addresses in 169.254.0.0/16. */
const NETWORKS = 16384;
const FIRST_NETWORK = 64;
const LAST_NETWORK = NETWORKS - 65;
/** 169.254.169.0/24, where clouds keep their metadata. */
const METADATA_BLOCK = 169;
const ATTEMPTS_MAX = 256;

/** The state of an uplink. */
export interface Uplink {
  /** Whether the server can reach others through it. */
  up: boolean;
  /** Why not, or what is missing; null when nothing is. */
  why: string | null;
}

/** Whose uplink it is. */
export interface UplinkOptions {
  /** Name of the service. */
  service: string;
  /** Name of its network namespace. */
  netns: string;
  /** Where rules are placed, by IP version. */
  firewalls: { 4: Firewall; 6: Firewall };
}

/** An address in use, as ip(8) tells it. */
export interface AddressInfo {
  /** The address. */
  local: string;
  /** Bits of it that name its network. */
  prefixlen: number;
}

/** Name of the host's end. */
export function uplinkName(service: string, netns: string): string {
  return `hfu${hashOf(`${service}\0${netns}`).toString(16).padStart(8, "0")}`;
}

/**
 * Sets up the uplink, replacing one that a crash has left. What stands in its way is reported, not thrown.
 */
export async function setUpUplink(options: UplinkOptions): Promise<Uplink> {
  try {
    return await build(options);
  } catch (error) {
    await removeUplink(options.service, options.netns);
    return { up: false, why: (error as Error).message };
  }
}

/** Removes both ends; the firewall's rules are the caller's. */
export async function removeUplink(service: string, netns: string): Promise<void> {
  await runCommand(["ip", "link", "delete", uplinkName(service, netns)]);
}

/** Sets up the uplink. */
async function build({ service, netns, firewalls }: UplinkOptions): Promise<Uplink> {
  const name = uplinkName(service, netns);
  await removeUplink(service, netns);
  await runCommand(["ip", "-n", netns, "link", "delete", INSIDE_NAME]);
  const addresses = await hostAddresses();
  const network = chooseNetwork(hashOf(name), addresses);
  const inside = ["-n", netns];
  const peer = ["peer", "name", INSIDE_NAME, "netns", netns];
  await mustRun("ip", "link", "add", name, "type", "veth", ...peer);
  const ipv4 = (last: number) => `169.254.${network >> 6}.${((network & 63) << 2) + last}`;
  await mustRun("ip", "address", "add", `${ipv4(1)}/30`, "dev", name);
  await mustRun("ip", ...inside, "address", "add", `${ipv4(2)}/30`, "dev", INSIDE_NAME);
  await mustRun("ip", "link", "set", name, "up");
  await mustRun("ip", ...inside, "link", "set", INSIDE_NAME, "up");
  await mustRun("ip", ...inside, "route", "replace", "default", "via", ipv4(1));
  enableForwarding(4, ["all"]);
  // The way back of what a server asked need not be the way there; do not insist on it here.
  writeSysctlIfPresent(`net/ipv4/conf/${name}/rp_filter`, "0");
  const why = await firewalls[4].masquerade(`${ipv4(0)}/30`, name);
  if (why !== null) {
    await removeUplink(service, netns);
    return { up: false, why: `no masquerading: ${why}` };
  }
  if (!addresses.some(isIpv6)) return { up: true, why: null };
  const ipv6 = (last: string) => `fd48:6f6c:6466:${network.toString(16)}::${last}`;
  await mustRun("ip", "address", "add", `${ipv6("1")}/64`, "dev", name, "nodad");
  await mustRun("ip", ...inside, "address", "add", `${ipv6("2")}/64`, "dev", INSIDE_NAME, "nodad");
  await mustRun("ip", "-6", ...inside, "route", "replace", "default", "via", ipv6("1"));
  enableForwarding(6, [name]);
  const why6 = await firewalls[6].masquerade(`${ipv6("")}/64`, name);
  if (why6 !== null) await runCommand(["ip", "-6", ...inside, "route", "delete", "default"]);
  return { up: true, why: why6 === null ? null : `IPv4 only, no masquerading for IPv6: ${why6}` };
}

/** The addresses of this host. */
async function hostAddresses(): Promise<AddressInfo[]> {
  const links: { addr_info?: AddressInfo[] }[] = JSON.parse(
    await mustRun("ip", "-json", "address", "show", "up"),
  );
  return links.flatMap((link) => link.addr_info ?? []).filter(({ local }) => local !== undefined);
}

/** Whether an address makes its host one that speaks IPv6 with others. */
function isIpv6({ local }: AddressInfo): boolean {
  return local.includes(":") && local !== "::1" && !local.startsWith("fe80:");
}

/**
 * The first network from `hash` on that no address of the host is near to.
 *
 * @throws {Error} When ATTEMPTS_MAX networks in a row are taken.
 */
export function chooseNetwork(hash: number, addresses: readonly AddressInfo[]): number {
  const taken = addresses.map(({ local, prefixlen }) => ({
    address: parseAddress(local),
    prefixlen,
  }));
  const count = LAST_NETWORK - FIRST_NETWORK + 1;
  for (let i = 0; i < ATTEMPTS_MAX; i++) {
    const network = FIRST_NETWORK + (hash + i) % count;
    if (network >> 6 === METADATA_BLOCK) continue;
    if (!taken.some((other) => overlaps(network, other))) return network;
  }
  throw new Error(
    `Cannot find a network for the uplink: ${ATTEMPTS_MAX} in 169.254.0.0/16 are in use`,
  );
}

/** Whether an address lies in a network of ours, or its own network of up to 256 addresses touches it. */
function overlaps(
  network: number,
  other: { address: IpAddress; prefixlen: number },
): boolean {
  const { version, bytes } = other.address;
  if (version === 6) {
    const prefix = [0xfd, 0x48, 0x6f, 0x6c, 0x64, 0x66, network >> 8, network & 0xff];
    return prefix.every((octet, index) => bytes[index] === octet);
  }
  if (bytes[0] !== 169 || bytes[1] !== 254) return false;
  const shift = Math.max(0, 30 - Math.max(other.prefixlen, 24));
  return ((bytes[2] << 6) | (bytes[3] >> 2)) >> shift === network >> shift;
}

/** FNV-1a, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const octet of new TextEncoder().encode(text)) {
    hash = Math.imul(hash ^ octet, 0x01000193) >>> 0;
  }
  return hash;
}
