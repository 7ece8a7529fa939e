/**
 * address_claim.ts - draw the traffic of a service address to this host, or let it go
 *
 * Theory of operation
 * The service address V belongs to none of the host's interfaces. While we claim it, neighbours that look
 * for V are told that it is here, and a route sends what they then send us into our TUN. The call order:
 *
 *   prepare()     once, when the TUN is up: settings, a blackhole route for V, all requests encoded
 *   claim()       route V -> TUN, then answers: no packet arrives before it has a way
 *   announce()    move the neighbours' attention here at once; again later does no harm
 *   release()     answers, then route: the reverse
 *   close()       leave nothing behind
 *
 * Who answers is the owner's choice:
 *
 *   "caller"      the owner polls `fd` and calls answerNeighbours(). When it dies or hangs, this host is
 *                 silent for V at that moment (P6).
 *   "kernel"      proxy ARP and proxy NDP; nothing to poll. A hung owner's host goes on answering. A
 *                 dead owner's host is silent for IPv4, as proxy ARP asks the routing table first; for
 *                 IPv6 it goes on answering, as proxy NDP does not, until prepare() sweeps up.
 *
 * Why a blackhole route: it is always there, with a metric that loses against ours. When this process
 * dies, the TUN vanishes and takes the route with it; the blackhole then keeps the kernel from sending
 * V's packets on, and from answering them.
 *
 * Why strict reverse-path filtering on the TUN (IPv4): a packet that claims to be from V is taken from us
 * only while the route to V leads back to us. After release() not even a late write can speak as V.
 *
 * Sources: net/ipv4/arp.c arp_process(), net/ipv6/ndisc.c ndisc_recv_ns(),
 * Documentation/networking/ip-sysctl.rst.
 */

import { type IpAddress, parseAddress } from "./address.ts";
import { AddressWatch } from "./address_watch.ts";
import { Announcer } from "./announce.ts";
import { enableForwarding } from "./forwarding.ts";
import { Errno } from "./libc.ts";
import { NeighbourResponder } from "./neighbour_responder.ts";
import { Netlink, type NetlinkRequest } from "./netlink.ts";
import {
  type Change,
  encodeProxyNeighbour,
  encodeRoute,
  type Link,
  type Route,
  TABLE_MAIN,
} from "./netlink_message.ts";
import { writeSysctl } from "./sysctl.ts";

/** Metric of the route to our TUN; wins against all but a route of metric 0. */
const METRIC_CLAIMED = 1;
/** Metric of the route that swallows what nobody claims; loses against every other for V. */
const METRIC_BLACKHOLE = 0x7fffffff;

/** Which address, and where its traffic comes from and goes to. */
export interface AddressClaimOptions {
  /** The service address, IPv4 or IPv6. */
  address: string;
  /** The TUN whose other end is the daemon. */
  tunName: string;
  /** The interface at which clients arrive. */
  interfaceName: string;
  /** Who tells neighbours where V is, see the top of the file; "kernel" if not given. */
  answers?: "caller" | "kernel";
}

/** Requests that {@linkcode AddressClaim.prepare} makes. */
interface Prepared {
  netlink: Netlink;
  announcer: Announcer;
  responder: NeighbourResponder | null;
  watch: AddressWatch;
  addRoute: NetlinkRequest;
  addProxy: NetlinkRequest;
  deleteProxy: NetlinkRequest;
  deleteRoute: NetlinkRequest;
  deleteBlackhole: NetlinkRequest;
}

/** The claim of one host on one service address. Every method is synchronous and to be called in one thread. */
export class AddressClaim {
  readonly #address: IpAddress;
  readonly #tunName: string;
  readonly #interfaceName: string;
  readonly #answers: "caller" | "kernel";
  #prepared: Prepared | null = null;
  #isClaimed = false;

  /**
   * Notes what is to be claimed, and touches nothing yet.
   *
   * @throws {RangeError} When the address cannot be read.
   */
  constructor(options: AddressClaimOptions) {
    this.#address = parseAddress(options.address);
    this.#tunName = options.tunName;
    this.#interfaceName = options.interfaceName;
    this.#answers = options.answers ?? "kernel";
  }

  /** Whether the address is claimed. */
  get isClaimed(): boolean {
    return this.#isClaimed;
  }

  /** Descriptor to poll for POLLIN; -1, which poll(2) passes over, where the kernel answers. */
  get fd(): number {
    return this.#prepared?.responder?.fd ?? -1;
  }

  /**
   * Makes the host ready, in the network namespace of the calling thread, and ends with V unclaimed.
   * What a crashed process has left is swept up.
   *
   * @throws {SystemError} ENODEV when an interface is missing; EPERM without CAP_NET_ADMIN.
   */
  prepare(): void {
    this.#writeSettings();
    const netlink = new Netlink();
    try {
      const version = this.#address.version;
      const tun = netlink.link(this.#tunName);
      const link = netlink.link(this.#interfaceName);
      const { text } = this.#address;
      const claimed: Route = {
        destination: this.#address,
        version,
        interfaceIndex: tun.index,
        metric: METRIC_CLAIMED,
        table: TABLE_MAIN,
      };
      const blackhole: Route = { ...claimed, interfaceIndex: null, metric: METRIC_BLACKHOLE };
      const proxy = { address: this.#address, interfaceIndex: link.index };
      const prepareRoute = (change: Change, route: Route, name: string) =>
        netlink.prepare(encodeRoute(change, route), `${change} the ${name} for ${text}`);
      const prepareProxy = (change: Change) =>
        netlink.prepare(
          encodeProxyNeighbour(change, proxy),
          `${change} the proxy entry for ${text} at ${this.#interfaceName}`,
        );
      netlink.perform(prepareRoute("add", blackhole, "blackhole route"));
      this.#prepared = {
        netlink,
        ...this.#openSockets(link),
        addRoute: prepareRoute("add", claimed, "route"),
        addProxy: prepareProxy("add"),
        deleteProxy: prepareProxy("delete"),
        deleteRoute: prepareRoute("delete", claimed, "route"),
        deleteBlackhole: prepareRoute("delete", blackhole, "blackhole route"),
      };
    } catch (error) {
      netlink.close();
      throw error;
    }
    this.release();
  }

  /**
   * Draws V's traffic into the TUN. When it fails, V is unclaimed.
   *
   * @throws {SystemError} When the kernel refuses; ENETDOWN when the TUN is not up.
   */
  claim(): void {
    const { netlink, addRoute, addProxy } = this.#ready();
    try {
      netlink.perform(addRoute);
      if (this.#answers === "kernel") netlink.perform(addProxy);
      this.#isClaimed = true;
    } catch (error) {
      this.release();
      throw error;
    }
  }

  /**
   * Tells the neighbours once that V is here.
   *
   * @throws {SystemError} ENETDOWN when the interface is down.
   * @throws {Error} When V is not claimed: it would be a lie.
   */
  announce(): void {
    if (!this.#isClaimed) {
      throw new Error(`Cannot announce ${this.#address.text}: it is not claimed`);
    }
    this.#ready().announcer.announce();
  }

  /**
   * Answers the neighbours that have asked where V is, or drops their questions while V is not claimed.
   * To be called when {@linkcode fd} polls POLLIN.
   *
   * @param mayAnswer False to drop them in any case.
   * @throws {SystemError} When the interface is gone.
   */
  answerNeighbours(mayAnswer = true): void {
    this.#prepared?.responder?.answer(this.#isClaimed && mayAnswer);
  }

  /** Descriptor to poll for POLLIN: somebody says that V is theirs; then call {@linkcode heardRival}. */
  get watchFd(): number {
    return this.#prepared?.watch.fd ?? -1;
  }

  /** The hardware address of somebody else who has said that V is theirs; null for nobody. */
  heardRival(): string | null {
    return this.#prepared?.watch.take() ?? null;
  }

  /** Asks a neighbour once where it is. */
  ask(neighbour: IpAddress): void {
    this.#prepared?.watch.ask(neighbour);
  }

  /** Asks the neighbours once whether V is at one of them. */
  probe(): void {
    this.#prepared?.watch.probe();
  }

  /** Lets V go; the host then swallows V's traffic. Does nothing when V is not claimed. */
  release(): void {
    const { netlink, deleteProxy, deleteRoute } = this.#ready();
    this.#isClaimed = false;
    // Gone already: ENOENT for a proxy entry, ESRCH for a route, ENODEV when its interface is gone too.
    netlink.perform(deleteProxy, [Errno.ENOENT, Errno.ENODEV]);
    netlink.perform(deleteRoute, [Errno.ESRCH, Errno.ENODEV]);
  }

  /** Releases V, removes the blackhole route and closes all descriptors. The settings stay. */
  close(): void {
    if (this.#prepared === null) return;
    const { netlink, announcer, responder, watch, deleteBlackhole } = this.#prepared;
    try {
      this.release();
      netlink.perform(deleteBlackhole, [Errno.ESRCH]);
    } finally {
      this.#prepared = null;
      announcer.close();
      responder?.close();
      watch.close();
      netlink.close();
    }
  }

  /** The sockets that speak to the neighbours. */
  #openSockets(link: Link): Pick<Prepared, "announcer" | "responder" | "watch"> {
    const announcer = new Announcer(this.#address, link);
    let watch: AddressWatch | null = null;
    try {
      watch = new AddressWatch(this.#address, link);
      const answersHere = this.#answers === "caller";
      const responder = answersHere ? new NeighbourResponder(this.#address, link) : null;
      return { announcer, responder, watch };
    } catch (error) {
      announcer.close();
      watch?.close();
      throw error;
    }
  }

  /** What prepare() has made. */
  #ready(): Prepared {
    if (this.#prepared === null) {
      throw new Error(`Cannot claim ${this.#address.text}: call prepare() first`);
    }
    return this.#prepared;
  }

  /** Settings of the host that answering and forwarding for V depend on. */
  #writeSettings(): void {
    const version = this.#address.version;
    enableForwarding(version, [this.#interfaceName, this.#tunName]);
    if (this.#answers === "kernel") {
      // Answer at once; the default is a random delay of up to 0.8 s.
      writeSysctl(`net/ipv${version}/neigh/${this.#interfaceName}/proxy_delay`, "0");
      if (version === 6) writeSysctl(`net/ipv6/conf/${this.#interfaceName}/proxy_ndp`, "1");
    }
    if (version === 6) return;
    // Never tell a client to go elsewhere for V. Either of "all" and the interface's own would do so.
    for (const name of ["all", this.#interfaceName]) {
      writeSysctl(`net/ipv4/conf/${name}/send_redirects`, "0");
    }
    writeSysctl(`net/ipv4/conf/${this.#tunName}/rp_filter`, "1");
  }
}
