/**
 * card_reader.ts - is there a carrier, how many packets came, and who is near enough to be asked?
 *
 * Theory of operation
 * SIOCGIFFLAGS tells IFF_UP and IFF_RUNNING, and /sys/class/net/NAME/statistics/rx_packets counts; neither
 * waits for the lock that changes of interfaces take. The gateway is the one of the default route over the
 * interface, read once: what is asked later needs no privilege but an open packet socket.
 *
 * Sources: netdevice(7), proc_pid_net(5), Documentation/ABI/testing/sysfs-class-net-statistics.
 */
import { addressOfBytes, type IpAddress, parseAddress } from "./address.ts";
import { check, closeAll, libc, Memory } from "./libc.ts";

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0x80000;
const SIOCGIFFLAGS = 0x8913n;
const IFREQ_LENGTH = 40;
const IFNAMSIZ = 16;
const IFF_UP = 0x1;
const IFF_RUNNING = 0x40;
/** Flags of a route: usable, by a gateway; include/uapi/linux/route.h. */
const RTF_GATEWAY = 0x3;

/** Looks at one interface. */
export class CardReader {
  readonly #fd: number;
  readonly #request = new Memory(IFREQ_LENGTH);
  readonly #counter: Deno.FsFile | null;
  readonly #octets = new Uint8Array(32);
  readonly #prefixes: { address: IpAddress; bits: number }[];
  /** The gateway over the interface; null when there is none. */
  readonly gateway: IpAddress | null;

  /**
   * Opens what is looked at, in the network namespace of the calling thread.
   *
   * @param version 4 or 6: of the addresses that may be asked.
   * @throws {SystemError} When no socket can be had.
   */
  constructor(interfaceName: string, version: 4 | 6) {
    this.#fd = check(
      libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0),
      "socket",
      "look at a card",
    );
    this.#request.bytes.set(new TextEncoder().encode(interfaceName).subarray(0, IFNAMSIZ - 1));
    this.#counter = openCounter(interfaceName);
    this.gateway = version === 4 ? gateway4(interfaceName) : gateway6(interfaceName);
    this.#prefixes = Deno.networkInterfaces()
      .filter(({ name, family }) => name === interfaceName && family === `IPv${version}`)
      .flatMap(({ cidr }) => {
        const [address, bits] = cidr.split("/");
        return bits === undefined ? [] : [{ address: parseAddress(address), bits: Number(bits) }];
      });
  }

  /** The interface is up and has a carrier. */
  hasCarrier(): boolean {
    if (libc.ioctl(this.#fd, SIOCGIFFLAGS, this.#request.address) < 0) return false;
    const flags = this.#request.view.getUint16(IFNAMSIZ, true);
    return (flags & IFF_UP) !== 0 && (flags & IFF_RUNNING) !== 0;
  }

  /** Packets that were received; null when it cannot be known. */
  received(): number | null {
    if (this.#counter === null) return null;
    try {
      this.#counter.seekSync(0, Deno.SeekMode.Start);
      const length = this.#counter.readSync(this.#octets) ?? 0;
      return Number(new TextDecoder().decode(this.#octets.subarray(0, length)));
    } catch {
      return null; // the interface is gone
    }
  }

  /** Whether an address is on the link, and so can be asked by ARP or neighbour discovery. */
  isNear(octets: Uint8Array): boolean {
    return this.#prefixes.some(({ address, bits }) => {
      for (let bit = 0; bit < bits; bit++) {
        const mask = 0x80 >> (bit & 7);
        if (((address.bytes[bit >> 3] ^ octets[bit >> 3]) & mask) !== 0) return false;
      }
      return true;
    });
  }

  /** Closes what was opened. */
  close(): void {
    closeAll(this.#fd);
    this.#counter?.close();
  }
}

function openCounter(interfaceName: string): Deno.FsFile | null {
  try {
    return Deno.openSync(`/sys/class/net/${interfaceName}/statistics/rx_packets`);
  } catch {
    return null; // sysfs is not there, or is that of another namespace
  }
}

/** Rows of a table below /proc/net; none when it cannot be read. */
function rows(table: string): string[][] {
  try {
    return Deno.readTextFileSync(`/proc/thread-self/net/${table}`).split("\n")
      .map((row) => row.trim().split(/\s+/));
  } catch {
    return [];
  }
}

/** `Iface Destination Gateway Flags ...`, words in the host's order of octets. */
function gateway4(interfaceName: string): IpAddress | null {
  const row = rows("route").find(([name, destination, , flags]) =>
    name === interfaceName && destination === "00000000" &&
    (parseInt(flags, 16) & RTF_GATEWAY) === RTF_GATEWAY
  );
  return row === undefined ? null : addressOfBytes(Uint8Array.fromHex(row[2]).reverse());
}

/** `destination length source length next-hop metric ... flags name`. */
function gateway6(interfaceName: string): IpAddress | null {
  const row = rows("ipv6_route").find((fields) =>
    fields[9] === interfaceName && fields[1] === "00" &&
    (parseInt(fields[8], 16) & RTF_GATEWAY) === RTF_GATEWAY
  );
  return row === undefined ? null : addressOfBytes(Uint8Array.fromHex(row[4]));
}
