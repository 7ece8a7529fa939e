/**
 * loop_stall_test.ts - a data plane that hangs is told by the main thread, and not fed to the watchdog
 *
 *   host a: main thread ── worker: storing its epoch into a pipe that nobody reads
 *
 * A disk that hangs is a pipe in the place of the file that the loop writes: open(2) waits for a reader.
 * Claims: the log says that the data plane stands still, the service manager hears nothing more;
 * when the pipe is read, all that comes back.
 */
import assert from "node:assert/strict";
import { check, closeAll, libc, Memory } from "../../runtime/io/libc.ts";
import { MSG_DONTWAIT } from "../../runtime/io/socket.ts";
import { netTest, sleep, until } from "./conditions.ts";
import { mixedServer, withSite } from "./harness.ts";
import { runProcess } from "./process.ts";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const WATCHDOG_MS = 1000;

/** A service manager's socket. */
class Manager {
  readonly #fd: number;
  readonly #memory = new Memory(256);

  constructor(path: string) {
    const name = new TextEncoder().encode(path);
    this.#memory.view.setUint16(0, AF_UNIX, true);
    this.#memory.bytes.set(name, 2);
    this.#fd = check(libc.socket(AF_UNIX, SOCK_DGRAM, 0), "socket", "make a manager's socket");
    check(libc.bind(this.#fd, this.#memory.address, 2 + name.length), "bind", "bind it");
  }

  /** All it was told since the last question. */
  heard(): string[] {
    const said: string[] = [];
    for (;;) {
      const length = libc.recv(this.#fd, this.#memory.address, 256, MSG_DONTWAIT);
      if (length <= 0) return said;
      said.push(new TextDecoder().decode(this.#memory.bytes.slice(0, length)));
    }
  }

  close(): void {
    closeAll(this.#fd);
  }
}

netTest("a data plane that hangs is noticed and not fed to the watchdog", [], async (context) => {
  const manager = new Manager(`${context.directory}/notify`);
  try {
    await withSite(context, { run: mixedServer(), hosts: ["a"] }, async (site) => {
      await site.waitPrimary("a");
      await site.startDaemon("b", {
        NOTIFY_SOCKET: `${context.directory}/notify`,
        WATCHDOG_USEC: String(WATCHDOG_MS * 1000),
      });
      await site.waitProtected();
      await until(() => manager.heard().includes("WATCHDOG=1"), {
        what: "the watchdog to be fed",
        timeoutMs: 10_000,
      });
      assert.doesNotMatch(site.log("b"), /stands still/);
      const pipe = `${site.topology.directory}/b.state/web.epoch.new`;
      await runProcess("mkfifo", [pipe]);
      // b is to take the service, stores the new epoch first, and hangs there.
      await site.killDaemon("a");
      await until(() => /data plane stands still/.test(site.log("b")), {
        what: "the main thread to notice",
        timeoutMs: 10_000,
      });
      await sleep(WATCHDOG_MS);
      manager.heard();
      await sleep(2 * WATCHDOG_MS);
      assert.deepEqual(manager.heard(), []);
      assert.match(site.log("b"), /watchdog not fed/);
      // The disk is back.
      const epoch = await runProcess("cat", [pipe]);
      assert.match(epoch, /^\d+\n$/);
      await until(() => manager.heard().includes("WATCHDOG=1"), {
        what: "the watchdog to be fed again",
        timeoutMs: 10_000,
      });
      assert.match(site.log("b"), /data plane goes on/);
      await site.waitPrimary("b");
      const { code } = await site.dialFromClient(5000);
      assert.equal(code, 0, "a new connection");
    });
  } finally {
    manager.close();
  }
});
