/**
 * libc.ts - the C library of this host, called directly
 *
 * Theory of operation
 * Every system call Holdfast makes goes through the one table `libc`, opened once per thread (a
 * worker evaluates this module again and gets its own). The declarations follow what makes a Deno
 * FFI call cheap: an address is a `u64` given as a bigint that was computed beforehand, a count is
 * a `u32`, a descriptor or result an `i32`. Such a call costs a few nanoseconds; a JS number passed
 * for a 64-bit parameter would cost thirty times as much. Counts must stay below 2^31, so that a
 * negative result always means failure.
 *
 *   Memory        octets outside the JavaScript heap, with an address that never changes
 *   errno()       read straight from the C library's per-thread cell, right after the failed call
 *   SystemError   a failed call: which, on what, and why
 *
 * Limits: Linux with glibc 2.30 or later, little-endian (x86-64, AArch64). Needs `--allow-ffi`.
 * Sources: syscalls(2), errno(3); each function has a page of its name in section 2.
 */

/** Foreign signatures of the functions in {@linkcode libc}. */
export const SIGNATURES = {
  accept4: { parameters: ["i32", "u64", "u64", "i32"], result: "i32" },
  bind: { parameters: ["i32", "u64", "u32"], result: "i32" },
  clock_gettime: { parameters: ["i32", "u64"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  connect: { parameters: ["i32", "u64", "u32"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  getpeername: { parameters: ["i32", "u64", "u64"], result: "i32" },
  getsockname: { parameters: ["i32", "u64", "u64"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "u64", "u64"], result: "i32" },
  gettid: { parameters: [], result: "i32" },
  ioctl: { parameters: ["i32", "u64", "u64"], result: "i32" },
  kill: { parameters: ["i32", "i32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  poll: { parameters: ["u64", "u32", "i32"], result: "i32" },
  prctl: { parameters: ["i32", "u64", "u64", "u64", "u64"], result: "i32" },
  read: { parameters: ["i32", "u64", "u32"], result: "i32" },
  recv: { parameters: ["i32", "u64", "u32", "i32"], result: "i32" },
  recvfrom: { parameters: ["i32", "u64", "u32", "i32", "u64", "u64"], result: "i32" },
  sched_setscheduler: { parameters: ["i32", "i32", "u64"], result: "i32" },
  sched_yield: { parameters: [], result: "i32" },
  send: { parameters: ["i32", "u64", "u32", "i32"], result: "i32" },
  sendto: { parameters: ["i32", "u64", "u32", "i32", "u64", "u32"], result: "i32" },
  setns: { parameters: ["i32", "i32"], result: "i32" },
  setpriority: { parameters: ["i32", "u32", "i32"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "u64", "u32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "u64"], result: "i32" },
  usleep: { parameters: ["u32"], result: "i32" },
  write: { parameters: ["i32", "u64", "u32"], result: "i32" },
  syscall: { parameters: ["i64", "i64", "u64", "i64"], result: "i64" },
  writev: { parameters: ["i32", "u64", "i32"], result: "i32" },
  __errno_location: { parameters: [], result: "pointer" },
} as const;

/** The functions of the C library that are used: 32-bit values are numbers, addresses bigints. */
export type LibcFunctions = Deno.DynamicLibrary<typeof SIGNATURES>["symbols"];

/** The C library. Names, order of parameters and results as in section 2 of the manual. */
export const libc: LibcFunctions = Deno.dlopen("libc.so.6", SIGNATURES).symbols;

/** Flags of open(2): read only. */
export const O_RDONLY = 0;
/** Write only. */
export const O_WRONLY = 1;
/** Read and write. */
export const O_RDWR = 2;
/** Never wait. */
export const O_NONBLOCK = 0x800;
/** Closed when another program is executed. */
export const O_CLOEXEC = 0x80000;

/** Events of poll(2): there is something to read. */
export const POLLIN = 0x1;
/** There is room to write. */
export const POLLOUT = 0x4;
/** An error is pending. */
export const POLLERR = 0x8;
/** The other side has closed. */
export const POLLHUP = 0x10;

/** Error numbers that this program tells apart or names in messages; errno(3). */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  ENOTDIR: 20,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ENOSPC: 28,
  EROFS: 30,
  EPIPE: 32,
  ERANGE: 34,
  ENOSYS: 38,
  EBADFD: 77,
  EMSGSIZE: 90,
  EPROTONOSUPPORT: 93,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETDOWN: 100,
  ENETUNREACH: 101,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOBUFS: 105,
  EISCONN: 106,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTDOWN: 112,
  EHOSTUNREACH: 113,
  EALREADY: 114,
  EINPROGRESS: 115,
} as const;

const ERRNO_NAMES = new Map<number, string>(
  Object.entries(Errno).map(([name, value]) => [value, name]),
);

/** This thread's errno cell; the module is evaluated once per thread, so it is always the right one. */
const errnoCell = new Int32Array(
  Deno.UnsafePointerView.getArrayBuffer(libc.__errno_location()!, 4),
);

/**
 * The reason of the last failed call of this thread. Read it before any other call.
 *
 * @returns A positive error number, see {@linkcode Errno}.
 */
export function errno(): number {
  return errnoCell[0];
}

/** A system call that failed. */
export class SystemError extends Error {
  /** Always "SystemError". */
  override readonly name = "SystemError";
  /** The call, "connect". */
  readonly call: string;
  /** The error number, 111. */
  readonly errno: number;
  /** The error's name, "ECONNREFUSED"; "E111" when {@linkcode Errno} has none. */
  readonly code: string;

  /**
   * Describes a failed call.
   *
   * @param call The call's name.
   * @param errno The error number.
   * @param detail What the call was for, completing "Cannot ...": "bind to 10.0.0.1:7946".
   */
  constructor(call: string, errno: number, detail: string) {
    const code = ERRNO_NAMES.get(errno) ?? `E${errno}`;
    super(`Cannot ${detail}: ${call} failed with ${code}`);
    this.call = call;
    this.errno = errno;
    this.code = code;
  }
}

/**
 * Passes a call's result on when it is not negative. To be called right after the call.
 *
 * @param result What the call returned.
 * @param call The call's name, for the message.
 * @param detail What the call was for, completing "Cannot ...".
 * @returns `result`.
 * @throws {SystemError} When `result` is negative.
 */
export function check(result: number, call: string, detail: string): number {
  if (result < 0) throw new SystemError(call, errno(), detail);
  return result;
}

/** Octets that system calls can be given: they lie outside the JavaScript heap and never move. */
export class Memory {
  /** The octets. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same octets as numbers; integers of the kernel's are little-endian, the network's big-endian. */
  readonly view: DataView<ArrayBuffer>;
  /**
   * Address of the first octet. Valid as long as this object is reachable, and a bigint does not
   * make it so: keep the object in a field or at module level, never in a local variable alone.
   */
  readonly address: bigint;

  /** Allocates `length` zero octets, at least one. */
  constructor(length: number) {
    // A typed array made by length alone may live inside the heap; one over a buffer never does.
    const buffer = new ArrayBuffer(Math.max(length, 1));
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.address = addressOf(this.bytes);
  }

  /** Memory that starts with a copy of `bytes`. */
  static of(bytes: Uint8Array): Memory {
    const memory = new Memory(bytes.length);
    memory.bytes.set(bytes);
    return memory;
  }
}

/**
 * Text as C wants it, for a parameter of type `buffer`: UTF-8 and a closing zero octet.
 *
 * @throws {RangeError} When `text` holds a zero itself.
 */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  if (text.includes("\0")) {
    throw new RangeError(`Cannot pass text to the C library as it holds a zero: ${text}`);
  }
  return new TextEncoder().encode(text + "\0");
}

/**
 * The address of a view over an ArrayBuffer, a SharedArrayBuffer or WebAssembly memory, which stays
 * the same when the memory grows. Compute it once; it costs more than the call it is for.
 */
export function addressOf(bytes: Uint8Array): bigint {
  return BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes as Uint8Array<ArrayBuffer>)));
}

/** Closes descriptors; negative ones are skipped, and a close that fails is of no consequence. */
export function closeAll(...fds: number[]): void {
  for (const fd of fds) {
    if (fd >= 0) libc.close(fd);
  }
}
