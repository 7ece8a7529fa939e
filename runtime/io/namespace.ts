/**
 * namespace.ts - the network a service lives in
 *
 * Theory of operation
 * The server runs in a network namespace of its own and has two ways out of it:
 *
 *   host                              service namespace
 *   hf-net (TUN) --- this process --- hf-app (TUN), holds the service address V
 *   hfu... (veth) ------------------- hf-up (veth), all else: name servers, databases (uplink.ts)
 *
 * A rule sends what comes from V to routing table TABLE_SERVICE, which knows two ways: through hf-app,
 * and nowhere. So packets from V pass this process or nothing: when it dies, hf-app is gone, the second
 * way is left, and V is no longer an address of the namespace. Everything else follows the main table
 * through the uplink. Nothing on the TUNs speaks unasked: no IPv6 autoconfiguration, no DAD, and on a TUN
 * for IPv4 no IPv6 at all.
 *
 * Everything is made in the network namespace of the calling thread, be it the machine's or another.
 * What a crash has left (namespace, veth, rules of routing and firewall) is used again or replaced; the
 * TUNs cannot be left, as they die with their descriptors.
 *
 * Limits: one service per namespace; NET_NAMES_MAX services per host.
 * Sources: ip-rule(8), ip-route(8), Documentation/networking/ip-sysctl.rst.
 */

import { type IpAddress, parseAddress } from "./address.ts";
import { runCommand } from "./command.ts";
import { Firewall } from "./firewall.ts";
import { closeAll, Errno, SystemError } from "./libc.ts";
import { Netlink } from "./netlink.ts";
import {
  encodeAddress,
  encodeLinkUp,
  encodeRoute,
  encodeRule,
  type Route,
} from "./netlink_message.ts";
import { ensureNamespace, inNamespace } from "./netns.ts";
import { removeResolver, setUpResolver } from "./resolver.ts";
import { writeSysctl, writeSysctlIfPresent } from "./sysctl.ts";
import { openTun, type Tun } from "./tun.ts";
import { removeUplink, setUpUplink, type Uplink } from "./uplink.ts";

export type { Uplink } from "./uplink.ts";

/** Name of the TUN inside the namespace. */
export const APP_NAME = "hf-app";
/** Name of the first TUN on the host; the next ones are hf-net1, hf-net2 ... */
export const NET_NAME = "hf-net";
/** Most TUNs on one host. */
const NET_NAMES_MAX = 256;
/** Packets (super-segments) that wait in a TUN for us: at most 4096 x 64 KiB. */
const TRANSMIT_QUEUE_LENGTH = 4096;
/** Routing table inside the namespace for what comes from the service address, and its rule's priority. */
const TABLE_SERVICE = 100;
const RULES_MAX = 16;
const METRIC_APP = 1;
const METRIC_NOWHERE = 0x7fffffff;
const ADDR_GEN_MODE_NONE = "1";

/** Which service, and where. */
export interface ServiceNetworkOptions {
  /** Name of the service. */
  service: string;
  /** Name of its network namespace, which is made if missing. */
  netns: string;
  /** The service address, IPv4 or IPv6. */
  address: string;
  /** The interface at which clients arrive; gives the TUNs their MTU. */
  interfaceName: string;
  /** Whether the server gets a way out for its other traffic. */
  uplink: boolean;
}

/** The network of one service. */
export class ServiceNetwork {
  /** Descriptor of the TUN on the host. */
  readonly netFd: number;
  /** Descriptor of the TUN in the namespace. */
  readonly appFd: number;
  /** Name of the TUN on the host. */
  readonly netName: string;
  /** Largest IP packet on both TUNs that is not a super-segment, in octets. */
  readonly mtu: number;
  /** Whether both TUNs carry super-segments. */
  readonly offload: boolean;
  /** Whether the server's other traffic has a way, and why not. */
  readonly uplink: Uplink;
  readonly #tearDown: () => Promise<void>;
  #areDevicesOpen = true;

  /** Use {@linkcode setUpServiceNetwork}. */
  constructor(
    devices: { net: Tun; app: Tun; mtu: number },
    made: { uplink: Uplink; tearDown: () => Promise<void> },
  ) {
    this.netFd = devices.net.fd;
    this.appFd = devices.app.fd;
    this.netName = devices.net.name;
    this.mtu = devices.mtu;
    this.offload = devices.net.offload && devices.app.offload;
    this.uplink = made.uplink;
    this.#tearDown = made.tearDown;
  }

  /** Closes both TUNs, once: from here nobody speaks as the service address any more. */
  silence(): void {
    if (!this.#areDevicesOpen) return;
    this.#areDevicesOpen = false;
    closeAll(this.netFd, this.appFd);
  }

  /** Closes both TUNs and removes what was made; the namespace only if it did not exist before. */
  async close(): Promise<void> {
    this.silence();
    await this.#tearDown();
  }
}

/**
 * Makes the network of a service.
 *
 * @throws {RangeError} When the address or the namespace's name is not one.
 * @throws {SystemError} Naming the device or setting: EPERM without CAP_NET_ADMIN, ENODEV without the
 *   interface, EBUSY when the namespace belongs to a running service.
 * @throws {Error} When the namespace cannot be made.
 */
export async function setUpServiceNetwork(
  options: ServiceNetworkOptions,
): Promise<ServiceNetwork> {
  const { service, netns, interfaceName } = options;
  const address = parseAddress(options.address);
  const mtu = mtuOf(interfaceName);
  const isNamespaceOurs = await ensureNamespace(netns);
  const firewalls = { 4: new Firewall(4, service), 6: new Firewall(6, service) };
  const opened: Tun[] = [];
  const tearDown = async () => {
    await firewalls[4].close();
    await firewalls[6].close();
    await removeUplink(service, netns);
    await removeResolver(netns);
    if (isNamespaceOurs) await runCommand(["ip", "netns", "delete", netns]);
  };
  try {
    const net = openNetTun();
    opened.push(net);
    setUpDevice(net.name, address, mtu).close();
    const app = inNamespace(netns, () => setUpInside(netns, address, mtu));
    opened.push(app);
    const uplink = options.uplink
      ? await setUpUplink({ service, netns, firewalls })
      : { up: false, why: "not asked for" };
    if (uplink.up) await setUpResolver(netns);
    await firewalls[address.version].letPass(address.text, net.name);
    return new ServiceNetwork({ net, app, mtu }, { uplink, tearDown });
  } catch (error) {
    closeAll(...opened.map(({ fd }) => fd));
    await tearDown();
    throw error;
  }
}

/** Removes what {@linkcode setUpServiceNetwork} made. */
export async function tearDownServiceNetwork(network: ServiceNetwork): Promise<void> {
  await network.close();
}

/** The MTU of an interface. */
function mtuOf(interfaceName: string): number {
  const netlink = new Netlink();
  try {
    return netlink.link(interfaceName).mtu;
  } finally {
    netlink.close();
  }
}

/** Makes the TUN on the host under the first name that is free. */
function openNetTun(): Tun {
  for (let i = 0; i < NET_NAMES_MAX; i++) {
    try {
      return openTun(i === 0 ? NET_NAME : `${NET_NAME}${i}`, { offload: true });
    } catch (error) {
      if (!(error instanceof SystemError && error.errno === Errno.EBUSY)) throw error;
    }
  }
  throw new Error(`Cannot make another TUN: ${NET_NAMES_MAX} names from ${NET_NAME} on are in use`);
}

/** Makes the TUN in the namespace, which the calling thread is in, and the ways out of it. */
function setUpInside(netns: string, address: IpAddress, mtu: number): Tun {
  const app = openAppTun(netns);
  try {
    for (const name of ["all", APP_NAME]) writeSysctl(`net/ipv4/conf/${name}/rp_filter`, "0");
    const netlink = setUpDevice(APP_NAME, address, mtu);
    try {
      netlink.change(encodeLinkUp(netlink.link("lo").index), "switch the loopback interface on");
      routeService(netlink, address);
    } finally {
      netlink.close();
    }
    return app;
  } catch (error) {
    closeAll(app.fd);
    throw error;
  }
}

/** Opens hf-app, saying what it means when there is one. */
function openAppTun(netns: string): Tun {
  try {
    return openTun(APP_NAME, { offload: true });
  } catch (error) {
    if (!(error instanceof SystemError && error.errno === Errno.EBUSY)) throw error;
    throw new SystemError(
      error.call,
      error.errno,
      `make ${APP_NAME} in network namespace ${netns}, which a running daemon uses (give each service ` +
        "of a machine a netns of its own)",
    );
  }
}

/** Switches a TUN on, silent unless spoken to; hands back a netlink socket to where it is. */
function setUpDevice(name: string, address: IpAddress, mtu: number): Netlink {
  if (address.version === 4) {
    writeSysctlIfPresent(`net/ipv6/conf/${name}/disable_ipv6`, "1");
  } else {
    writeSysctl(`net/ipv6/conf/${name}/disable_ipv6`, "0");
    writeSysctl(`net/ipv6/conf/${name}/addr_gen_mode`, ADDR_GEN_MODE_NONE);
    writeSysctl(`net/ipv6/conf/${name}/accept_ra`, "0");
  }
  const netlink = new Netlink();
  try {
    const sizes = { mtu, transmitQueueLength: TRANSMIT_QUEUE_LENGTH };
    netlink.change(
      encodeLinkUp(netlink.link(name).index, sizes),
      `switch ${name} on with an MTU of ${mtu}`,
    );
    return netlink;
  } catch (error) {
    netlink.close();
    throw error;
  }
}

/** Gives hf-app the service address and sends what comes from it through hf-app or nowhere. */
function routeService(netlink: Netlink, address: IpAddress): void {
  const { version, text } = address;
  const { index } = netlink.link(APP_NAME);
  netlink.change(encodeAddress(address, index), `give ${APP_NAME} the address ${text}`);
  const throughApp: Route = {
    destination: null,
    version,
    interfaceIndex: index,
    metric: METRIC_APP,
    table: TABLE_SERVICE,
  };
  const nowhere: Route = { ...throughApp, interfaceIndex: null, metric: METRIC_NOWHERE };
  for (const route of [nowhere, throughApp]) {
    netlink.change(encodeRoute("add", route), `route what comes from ${text}`);
  }
  const rule = { version, table: TABLE_SERVICE, priority: TABLE_SERVICE };
  const detail = `replace the routing rule for ${text}`;
  for (let i = 0; i < RULES_MAX; i++) {
    const stale = encodeRule("delete", { ...rule, source: null });
    if (!netlink.change(stale, detail, [Errno.ENOENT])) break;
  }
  netlink.change(encodeRule("add", { ...rule, source: address }), detail, [Errno.EEXIST]);
}
