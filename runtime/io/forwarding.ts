/**
 * forwarding.ts - let packets pass between the interfaces of this host
 *
 * Theory of operation
 * IPv4 forwards what arrives at an interface whose own setting allows it, so only the named interfaces
 * are opened ("all" opens every one, now and later). IPv6 has one switch for the host, which makes it a
 * router everywhere; a router no longer listens to router advertisements and forgets its default
 * route. Interfaces that listened before are therefore told to go on (accept_ra = 2) first.
 *
 * Nothing is switched off again: others may have come to rely on it meanwhile.
 * Sources: Documentation/networking/ip-sysctl.rst (forwarding, accept_ra).
 */

import { readSysctl, writeSysctl } from "./sysctl.ts";

const IPV6_SETTINGS = "net/ipv6/conf";

/**
 * Allows forwarding of what arrives at the interfaces called `names`, in the network namespace of the
 * calling thread.
 *
 * @throws {SystemError} When a setting cannot be written.
 */
export function enableForwarding(version: 4 | 6, names: readonly string[]): void {
  if (version === 4) {
    for (const name of names) writeSysctl(`net/ipv4/conf/${name}/forwarding`, "1");
    return;
  }
  for (const { name } of Deno.readDirSync(`/proc/sys/${IPV6_SETTINGS}`)) {
    if (name !== "all" && name !== "default") keepRouterAdvertisements(name);
  }
  for (const name of ["all", ...names]) writeSysctl(`${IPV6_SETTINGS}/${name}/forwarding`, "1");
}

/** Lets an interface that hears router advertisements go on hearing them when it forwards. */
function keepRouterAdvertisements(name: string): void {
  const setting = `${IPV6_SETTINGS}/${name}`;
  const isHost = readSysctl(`${setting}/forwarding`) === "0";
  if (isHost && readSysctl(`${setting}/accept_ra`) === "1") {
    writeSysctl(`${setting}/accept_ra`, "2");
  }
}
