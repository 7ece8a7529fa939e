/**
 * sysctl.ts - kernel settings of the network namespace that the calling thread is in
 *
 * Theory of operation
 * A setting is a small file below /proc/sys; what is below /proc/sys/net belongs to the network
 * namespace of the thread that opens it. The files are opened through the C library, so that this holds
 * in any thread and no permission beyond `--allow-ffi` is needed. A setting that already has the wanted
 * value is not written, which also works where /proc/sys is read-only.
 *
 * Sources: sysctl(8), Documentation/networking/ip-sysctl.rst.
 */

import {
  check,
  closeAll,
  cString,
  Errno,
  libc,
  Memory,
  O_CLOEXEC,
  O_RDONLY,
  O_WRONLY,
  SystemError,
} from "./libc.ts";

const VALUE_LENGTH_MAX = 256;
const value = new Memory(VALUE_LENGTH_MAX);

/**
 * Reads a setting.
 *
 * @param name Path below /proc/sys: "net/ipv4/conf/eth0/forwarding".
 * @returns The value without surrounding blanks.
 * @throws {SystemError} ENOENT when this kernel, or this namespace, has no such setting.
 */
export function readSysctl(name: string): string {
  const detail = `read /proc/sys/${name}`;
  const fd = openSetting(name, O_RDONLY, detail);
  try {
    const length = check(libc.read(fd, value.address, VALUE_LENGTH_MAX), "read", detail);
    return new TextDecoder().decode(value.bytes.subarray(0, length)).trim();
  } finally {
    closeAll(fd);
  }
}

/**
 * Gives a setting a value, unless it has it.
 *
 * @param name Path below /proc/sys.
 * @throws {SystemError} EROFS or EACCES where /proc/sys must not be written; ENOENT as above.
 * @throws {RangeError} When the value is longer than VALUE_LENGTH_MAX octets.
 */
export function writeSysctl(name: string, text: string): void {
  if (readSysctl(name) === text) return;
  const { read, written } = new TextEncoder().encodeInto(text, value.bytes);
  if (read < text.length) {
    throw new RangeError(
      `Cannot write a setting of ${text.length} characters: allowed are ${VALUE_LENGTH_MAX} octets`,
    );
  }
  const detail = `write "${text}" to /proc/sys/${name}`;
  const fd = openSetting(name, O_WRONLY, detail);
  try {
    check(libc.write(fd, value.address, written), "write", detail);
  } finally {
    closeAll(fd);
  }
}

/** As {@linkcode writeSysctl}, for a setting that some kernels lack; without it nothing happens. */
export function writeSysctlIfPresent(name: string, text: string): void {
  try {
    writeSysctl(name, text);
  } catch (error) {
    if (!(error instanceof SystemError && error.errno === Errno.ENOENT)) throw error;
  }
}

/** Opens the file of a setting. */
function openSetting(name: string, flags: number, detail: string): number {
  return check(libc.open(cString(`/proc/sys/${name}`), flags | O_CLOEXEC, 0), "open", detail);
}
