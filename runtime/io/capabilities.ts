/**
 * capabilities.ts - what the calling thread may do beyond an ordinary user
 *
 * Theory of operation
 * Linux keeps capabilities per thread. The data plane, once its devices and sockets are open, needs few of
 * them, while the main thread goes on to need more (namespaces, servers as other users); so the data
 * plane's thread gives up the rest for good: what is not permitted cannot be made effective again. It
 * is a fence around mistakes and wrong file names, not around code of an attacker: threads share memory.
 *
 * Sources: capabilities(7), capget(2), proc_pid_status(5).
 */
import { check, libc, Memory } from "./libc.ts";

/** Capabilities that are asked for by name, and their numbers. */
export const CAPABILITIES = {
  CAP_DAC_OVERRIDE: 1,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_NET_ADMIN: 12,
  CAP_NET_RAW: 13,
  CAP_SYS_ADMIN: 21,
  CAP_SYS_NICE: 23,
} as const;

/** Name of a capability. */
export type Capability = keyof typeof CAPABILITIES;

/** Number of capset(2), which glibc does not wrap; syscall(2). */
const CAPSET = Deno.build.arch === "x86_64" ? 126n : 91n;
/** _LINUX_CAPABILITY_VERSION_3: two words of each set. */
const VERSION_3 = 0x20080522;
const HEADER_LENGTH = 8;
/** Effective, permitted and inheritable, 32 bits each, twice. */
const DATA_LENGTH = 24;

/** The capabilities in effect for the calling thread, as a mask of 1 << number. */
export function effectiveCapabilities(): bigint {
  const status = Deno.readTextFileSync("/proc/thread-self/status");
  return BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0"}`);
}

/**
 * Gives up, for the calling thread and those that it makes, whatever is not named. What is named and was
 * not in effect stays so.
 *
 * @throws {SystemError} When the kernel refuses, which it has no reason to.
 */
export function keepOnlyCapabilities(names: readonly Capability[]): void {
  const wanted = names.reduce((mask, name) => mask | 1n << BigInt(CAPABILITIES[name]), 0n);
  const kept = effectiveCapabilities() & wanted;
  const memory = new Memory(HEADER_LENGTH + DATA_LENGTH);
  memory.view.setUint32(0, VERSION_3, true);
  for (const [word, mask] of [kept & 0xffffffffn, kept >> 32n].entries()) {
    const at = HEADER_LENGTH + word * 12;
    memory.view.setUint32(at, Number(mask), true);
    memory.view.setUint32(at + 4, Number(mask), true);
  }
  const data = memory.address + BigInt(HEADER_LENGTH);
  const result = libc.syscall(CAPSET, memory.address, data, 0n);
  check(Number(result), "capset", `keep only ${names.join(", ") || "no capability"}`);
  memory.bytes.fill(0); // until here it had to stay reachable
}
