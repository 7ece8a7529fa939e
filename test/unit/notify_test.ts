/**
 * notify_test.ts - readiness, told to a service manager that is a socket of ours
 *
 * Both kinds of NOTIFY_SOCKET of sd_notify(3): a path, and an abstract name.
 */
import { ok, strictEqual, throws } from "node:assert/strict";
import { notifyManager, watchdogIntervalMs } from "../../runtime/cli/notify.ts";
import { check, closeAll, libc, Memory, SystemError } from "../../runtime/io/libc.ts";
import { MSG_DONTWAIT } from "../../runtime/io/socket.ts";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const memory = new Memory(256);

/** A datagram socket of a name, as a service manager has one. */
function bindManager(name: Uint8Array): number {
  memory.bytes.fill(0);
  memory.view.setUint16(0, AF_UNIX, true);
  memory.bytes.set(name, 2);
  const fd = check(libc.socket(AF_UNIX, SOCK_DGRAM, 0), "socket", "make a manager's socket");
  check(libc.bind(fd, memory.address, 2 + name.length), "bind", "bind a manager's socket");
  return fd;
}

function receive(fd: number): string {
  const length = check(libc.recv(fd, memory.address, 256, MSG_DONTWAIT), "recv", "hear a state");
  return new TextDecoder().decode(memory.bytes.subarray(0, length));
}

Deno.test("notifyManager() sends one datagram to a path or an abstract name", async () => {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-test-" });
  const path = `${directory}/notify`;
  const abstract = `@holdfast-test-${crypto.randomUUID()}`;
  const names = [path, abstract].map((name) => new TextEncoder().encode(name));
  names[1][0] = 0;
  const fds = names.map(bindManager);
  try {
    ok(notifyManager("READY=1", path));
    strictEqual(receive(fds[0]), "READY=1");
    ok(notifyManager("STOPPING=1", abstract));
    strictEqual(receive(fds[1]), "STOPPING=1");
  } finally {
    closeAll(...fds);
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("watchdogIntervalMs() is half of what the manager allows", () => {
  strictEqual(watchdogIntervalMs("10000000"), 5000);
  for (const none of ["", "0", "-1", "1.5", "abc"]) strictEqual(watchdogIntervalMs(none), null);
});

Deno.test("notifyManager() sends nothing without a manager and says when nobody listens", () => {
  strictEqual(notifyManager("READY=1", ""), false);
  throws(() => notifyManager("READY=1", `@holdfast-none-${crypto.randomUUID()}`), SystemError);
  throws(() => notifyManager("READY=1", `/${"x".repeat(108)}`), RangeError);
});
