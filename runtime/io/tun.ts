/**
 * tun.ts - network interfaces whose other end is this program
 *
 * Theory of operation
 * `openTun()` makes a TUN interface in the network namespace of the calling thread. The interface
 * lives as long as its descriptor: when the process ends, however it ends, the interface and every
 * route through it are gone. One read(2) gives one packet, one write(2) takes one, each behind a
 * virtio_net_hdr of VNET_HEADER_LENGTH octets. With offload, a packet may be a super-segment of up to
 * 64 KiB whose TCP checksum is left to the device (VIRTIO_NET_HDR_F_NEEDS_CSUM).
 *
 *   virtio_net_hdr   0      1         2        4         6           8            10
 *                    | flags| gso_type| hdr_len| gso_size| csum_start| csum_offset|   little-endian
 *
 * The descriptor never blocks; wait with poll(2). It stays bound to its interface when that is moved
 * to another namespace.
 *
 * Sources: Linux Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h,
 * include/uapi/linux/virtio_net.h.
 */

import {
  check,
  closeAll,
  cString,
  Errno,
  errno,
  libc,
  Memory,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDWR,
  SystemError,
} from "./libc.ts";

/** Octets of virtio_net_hdr in front of every packet. */
export const VNET_HEADER_LENGTH = 10;
/** Characters an interface name may have; IFNAMSIZ less the closing zero. */
export const INTERFACE_NAME_LENGTH_MAX = 15;

const TUNSETIFF = 0x400454can;
const TUNSETOFFLOAD = 0x400454d0n;
const TUNSETVNETHDRSZ = 0x400454d8n;
const IFF_TUN = 0x1;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
/** Refuse to attach to an interface that exists. */
const IFF_TUN_EXCL = 0x8000;
const IFREQ_LENGTH = 40;
const IFREQ_FLAGS_OFFSET = 16;

/** `struct ifreq`, or whatever else an ioctl(2) here points to. */
const request = new Memory(IFREQ_LENGTH);

const OFFLOAD_CHECKSUM = 1;
const OFFLOAD_TSO4 = 2;
const OFFLOAD_TSO6 = 4;
/** What to ask the kernel for, best first. */
const OFFLOAD_LADDER = [
  OFFLOAD_CHECKSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6,
  OFFLOAD_CHECKSUM | OFFLOAD_TSO4,
  OFFLOAD_CHECKSUM,
];

/** Choices for {@linkcode openTun}. */
export interface TunOptions {
  /** Accept super-segments and unfinished checksums, as far as this kernel can. */
  offload: boolean;
}

/** An open TUN interface. */
export interface Tun {
  /** Descriptor to read packets from and write them to; close it to remove the interface. */
  fd: number;
  /** Name of the interface. */
  name: string;
  /** Whether packets may be super-segments and may lack their checksum. */
  offload: boolean;
}

/**
 * Makes a TUN interface in the network namespace of the calling thread. It has no address and is down.
 *
 * @param name Name of the new interface, at most INTERFACE_NAME_LENGTH_MAX characters.
 * @throws {SystemError} EBUSY when an interface of this name exists; EPERM without CAP_NET_ADMIN.
 * @throws {RangeError} When the name is not one the kernel takes.
 */
export function openTun(name: string, options: TunOptions): Tun {
  checkInterfaceName(name);
  const fd = libc.open(cString("/dev/net/tun"), O_RDWR | O_NONBLOCK | O_CLOEXEC, 0);
  if (fd < 0) {
    throw new SystemError(
      "open",
      errno(),
      "open /dev/net/tun (it needs the tun module: modprobe tun, or --device /dev/net/tun in a container)",
    );
  }
  try {
    request.bytes.fill(0);
    new TextEncoder().encodeInto(name, request.bytes);
    const flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL;
    request.view.setUint16(IFREQ_FLAGS_OFFSET, flags, true);
    if (libc.ioctl(fd, TUNSETIFF, request.address) < 0) {
      const reason = errno();
      const hint = reason === Errno.EPERM
        ? " (CAP_NET_ADMIN is needed: run as root)"
        : reason === Errno.EBUSY
        ? " (an interface of this name exists)"
        : "";
      throw new SystemError("ioctl TUNSETIFF", reason, `make TUN interface ${name}${hint}`);
    }
    request.view.setInt32(0, VNET_HEADER_LENGTH, true);
    check(
      libc.ioctl(fd, TUNSETVNETHDRSZ, request.address),
      "ioctl TUNSETVNETHDRSZ",
      `set the header length of ${name} to ${VNET_HEADER_LENGTH}`,
    );
    const offload = options.offload && setOffload(fd);
    return { fd, name, offload };
  } catch (error) {
    closeAll(fd);
    throw error;
  }
}

/** Asks for the best offload this kernel grants; false when it grants none. */
function setOffload(fd: number): boolean {
  for (const flags of OFFLOAD_LADDER) {
    if (libc.ioctl(fd, TUNSETOFFLOAD, BigInt(flags)) === 0) return true;
  }
  return false;
}

/**
 * Refuses what the kernel would refuse as the name of an interface.
 *
 * @throws {RangeError} Saying what is allowed.
 */
export function checkInterfaceName(name: string): void {
  if (
    !/^[\x21-\x7e]+$/.test(name) || /[/:%]/.test(name) || name === "." || name === ".." ||
    name.length > INTERFACE_NAME_LENGTH_MAX
  ) {
    throw new RangeError(
      `Cannot use "${name}" as interface name: allowed are 1 to ${INTERFACE_NAME_LENGTH_MAX} ` +
        `printable characters other than "/", ":" and "%"`,
    );
  }
}
