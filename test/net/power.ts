/**
 * power.ts - disks of their own for hosts of a site, which lose their power as real ones do
 *
 * Theory of operation
 * A host's state directory is an ext4 file system on a loop device. `cutAll()` ends all that runs on the hosts, then
 * stops the file systems as they are (FS_IOC_SHUTDOWN without a flush of the journal, as file systems' own tests do):
 * what was not synced is lost. Nobody may run while it does: an fdatasync(2) that is under way may return 0 for what
 * is lost (11 of 60 times on Linux 6.18), and a host without power tells nobody so. `restore()` mounts a copy of what
 * the device has, whose journal the kernel replays; a copy, as the kernel may still write to the device of the dead
 * file system.
 *
 *   image 0 ── loop ── ext4 ──shutdown──> | copied | ──> image 1 ── loop ── ext4 ──> ...
 *
 * Limits: IMAGE_OCTETS for a host. Needs root, loop devices, mkfs.ext4 and python3 (for the ioctl).
 * Sources: the ioctl EXT4_IOC_SHUTDOWN in Linux fs/ext4/ioctl.c; mount(8), losetup(8).
 */
import type { HostName, Site } from "./harness.ts";
import { runProcess } from "./process.ts";

/** A sparse file of so many octets for each host. */
const IMAGE_OCTETS = 2 ** 31;
/** EXT4_IOC_SHUTDOWN, and EXT4_GOING_FLAGS_NOLOGFLUSH. */
const SHUT_DOWN = [
  "import fcntl, os, struct, sys",
  "for path in sys.argv[1:]:",
  "    fcntl.ioctl(os.open(path, os.O_RDONLY), 0x8004587D, struct.pack('I', 2))",
].join("\n");

/** What the test needs to have installed. */
export const POWER_TOOLS = ["mkfs.ext4", "losetup", "mount", "umount", "python3"];

/** The disks of a site's hosts. */
export class Disks {
  readonly #site: Site;
  readonly #mounts = new Map<HostName, { image: string; at: string }>();
  readonly #directory: string;
  #made = 0;

  /** `directory`: where the images are; not that of the site. */
  constructor(site: Site, directory: string) {
    this.#site = site;
    this.#directory = directory;
  }

  /** Gives a host an empty disk; its daemon must not run yet. */
  async add(host: HostName): Promise<void> {
    const image = this.#nextImage(host);
    await Deno.writeFile(image, new Uint8Array());
    await Deno.truncate(image, IMAGE_OCTETS);
    await runProcess("mkfs.ext4", ["-q", image], { timeoutMs: 60_000 });
    await this.#mount(host, image);
  }

  /**
   * All hosts lose their power.
   *
   * @returns Wall clock of that, milliseconds since 1970.
   */
  async cutAll(): Promise<number> {
    const hosts = [...this.#mounts.keys()];
    const cuts = await Promise.all(hosts.map((host) => this.#site.crash(host)));
    const places = [...this.#mounts.values()].map(({ at }) => at);
    await runProcess("python3", ["-c", SHUT_DOWN, ...places]);
    return Math.min(...cuts);
  }

  /** Gives a host its power back: what its disk has is there again, and its daemon is started. */
  async restore(host: HostName): Promise<void> {
    const { image, at } = this.#mounts.get(host)!;
    const next = this.#nextImage(host);
    await runProcess("cp", ["--sparse=always", image, next], { timeoutMs: 60_000 });
    await runProcess("umount", ["--lazy", at]);
    await Deno.remove(image);
    await this.#mount(host, next);
    await this.#site.revive(host);
  }

  /** Takes all disks away. */
  async close(): Promise<void> {
    for (const { at } of this.#mounts.values()) await runProcess("umount", ["--lazy", at]);
    this.#mounts.clear();
  }

  #nextImage(host: HostName): string {
    return `${this.#directory}/${host}-${this.#made++}.image`;
  }

  async #mount(host: HostName, image: string): Promise<void> {
    const at = `${this.#site.topology.directory}/${host}.state`;
    await Deno.mkdir(at, { recursive: true });
    await runProcess("mount", ["-o", "loop", image, at]);
    this.#mounts.set(host, { image, at });
  }
}
