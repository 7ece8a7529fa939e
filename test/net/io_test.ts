/**
 * io_test.ts - runtime/io against a real kernel
 *
 *   client namespace                host namespace                        service namespace
 *   10.77.0.2 ---- veth ---- 10.77.0.1   io_host.ts: hf-net <-> hf-app    10.77.0.100
 *   fd77::2                     fd77::1  hfu... ------------ hf-up        fd77::100
 *
 * Claims: the service address is reached while it is claimed and at no other time; a host whose daemon
 * is dead or stopped does not even say where the address is; the service address leaves the namespace
 * through hf-app alone while other traffic has a way out; what a crash has left does no harm and what was
 * made is removed. Sockets, mailboxes, TUN and netlink say what is wrong in words.
 */

import assert from "node:assert/strict";
import { parseAddress } from "../../runtime/io/address.ts";
import { Errno, libc, Memory, POLLIN, POLLOUT, type SystemError } from "../../runtime/io/libc.ts";
import { Netlink } from "../../runtime/io/netlink.ts";
import { encodeAddress, encodeLinkUp } from "../../runtime/io/netlink_message.ts";
import { inNamespace } from "../../runtime/io/netns.ts";
import {
  acceptTcp,
  bindUdp,
  connectTcp,
  formatHostPort,
  listenTcp,
  localEndpoint,
  mailbox,
  MAILBOX_LENGTH_MAX,
  parseHostPort,
  peerCredentials,
  post,
  sendTo,
  socketError,
  take,
} from "../../runtime/io/socket.ts";
import { openTun } from "../../runtime/io/tun.ts";
import { netTest, until } from "./conditions.ts";
import { runProcess, startProcess, type TestProcess } from "./process.ts";

const HOST_PROGRAM = new URL("io_host.ts", import.meta.url).pathname;
const ANSWER_TIMEOUT_MS = 15_000;
const FAMILIES = {
  4: { host: "10.77.0.1/24", client: "10.77.0.2/24", service: "10.77.0.100", version: "-4" },
  6: { host: "fd77::1/64", client: "fd77::2/64", service: "fd77::100", version: "-6" },
} as const;
const IP6TABLES = ["ip6tables-legacy", "ip6tables"];
type Family = keyof typeof FAMILIES;

/** The topology at the top of the file. */
class Site {
  readonly #prefix = `ioa${crypto.getRandomValues(new Uint16Array(1))[0]}`;
  readonly host = `${this.#prefix}-h`;
  readonly client = `${this.#prefix}-c`;
  readonly service = `${this.#prefix}-s`;
  #processes: TestProcess[] = [];

  async make(): Promise<void> {
    for (const name of [this.host, this.client]) await ip("netns", "add", name);
    // Made here, so that this process sees it too; io_host.ts finds it and leaves it.
    await ip("netns", "add", this.service);
    const peer = ["peer", "name", "eth0", "netns", this.client];
    await ip("-n", this.host, "link", "add", "eth0", "type", "veth", ...peer);
    for (const [name, side] of [[this.host, "host"], [this.client, "client"]] as const) {
      for (const family of [4, 6] as const) {
        const nodad = family === 6 ? ["nodad"] : [];
        const address = FAMILIES[family][side];
        await ip("-n", name, "address", "add", address, "dev", "eth0", ...nodad);
      }
      for (const link of ["lo", "eth0"]) await ip("-n", name, "link", "set", link, "up");
    }
  }

  async remove(): Promise<void> {
    for (const process of this.#processes) await process.kill();
    for (const name of [this.host, this.client, this.service]) {
      await ip("netns", "delete", name).catch(() => {});
    }
  }

  /** Starts io_host.ts and waits until it is ready. */
  async start(family: Family, answers: "caller" | "kernel"): Promise<TestProcess> {
    const options = {
      service: "io",
      netns: this.service,
      address: FAMILIES[family].service,
      interfaceName: "eth0",
      uplink: true,
      answers,
    };
    const process = startProcess(
      Deno.execPath(),
      ["run", "-A", "--no-check", HOST_PROGRAM, JSON.stringify(options)],
      { namespace: this.host, input: true },
    );
    this.#processes.push(process);
    await process.waitForOutput("ready", ANSWER_TIMEOUT_MS);
    return process;
  }

  /** Whether the client, knowing nobody, gets an answer from the service; and who said where it is. */
  async ask(family: Family): Promise<{ answered: boolean; neighbour: string }> {
    const { service, version } = FAMILIES[family];
    await ip("-n", this.client, "neighbour", "flush", "dev", "eth0");
    const ping = startProcess("ping", [version, "-c", "1", "-W", "1", service], {
      namespace: this.client,
    });
    const { code } = await ping.waitForExit(5000);
    const shown = await ip("-n", this.client, "neighbour", "show", service);
    return { answered: code === 0, neighbour: /lladdr (\S+)/.exec(shown)?.[1] ?? "" };
  }

  /** The rules of iptables on the host, of every table we use; none where there is no iptables. */
  async filterRules(family: Family): Promise<string[]> {
    const rules: string[] = [];
    const [legacy, any] = family === 4 ? ["iptables-legacy", "iptables"] : IP6TABLES;
    for (const table of ["filter", "nat", "raw"]) {
      const list = (tool: string) =>
        runProcess(tool, ["-t", table, "-S"], { namespace: this.host });
      const shown = await list(legacy).catch(() => list(any)).catch(() => "");
      rules.push(...shown.split("\n").filter((line) => line.startsWith("-A")));
    }
    return rules;
  }

  /** The hardware address of the host. */
  async mac(): Promise<string> {
    return /ether (\S+)/.exec(await ip("-n", this.host, "link", "show", "eth0"))![1];
  }
}

async function ip(...words: string[]): Promise<string> {
  return await runProcess("ip", words);
}

async function withSite(body: (site: Site) => Promise<void>): Promise<void> {
  const site = new Site();
  try {
    await site.make();
    await body(site);
  } finally {
    await site.remove();
  }
}

const NOBODY = { answered: false, neighbour: "" };

for (const family of [4, 6] as const) {
  const { service, version } = FAMILIES[family];
  const routes = (site: Site) => ip(version, "-n", site.host, "route", "show", service);

  for (const answers of ["kernel", "caller"] as const) {
    netTest(
      `AddressClaim draws the address here while claimed (IPv${family}, ${answers} answers)`,
      ["ping"],
      () =>
        withSite(async (site) => {
          const acceptRa = ["/proc/sys/net/ipv6/conf/eth0/accept_ra"];
          assert.equal(await runProcess("cat", acceptRa, { namespace: site.host }), "1\n");
          const daemon = await site.start(family, answers);
          // A router that was a host keeps on listening to other routers.
          assert.equal(await runProcess("cat", acceptRa, { namespace: site.host }), "2\n");
          assert.deepEqual(await site.ask(family), NOBODY, "before the claim");
          await daemon.write("claim\n");
          await daemon.waitForOutput("claimed", ANSWER_TIMEOUT_MS);
          const answered = await until(async () => {
            const answer = await site.ask(family);
            return answer.answered && answer;
          }, { what: "an answer from the service", timeoutMs: ANSWER_TIMEOUT_MS });
          assert.equal(answered.neighbour, await site.mac());
          await daemon.write("release\n");
          await daemon.waitForOutput("released", ANSWER_TIMEOUT_MS);
          assert.deepEqual(await site.ask(family), NOBODY, "after the release");
          await daemon.write("time\n");
          await daemon.waitForOutput(" us", ANSWER_TIMEOUT_MS);
          const [line, medianUs] = /median (\d+) us/.exec(daemon.output())!;
          console.log(`claim and announce: ${line}`);
          assert.ok(Number(medianUs) < 1000, line);
        }),
    );
  }

  netTest(
    `AddressClaim falls silent with its process, stopped or dead (IPv${family})`,
    ["ping"],
    () =>
      withSite(async (site) => {
        const daemon = await site.start(family, "caller");
        await daemon.write("claim\n");
        await daemon.waitForOutput("claimed", ANSWER_TIMEOUT_MS);
        await until(async () => (await site.ask(family)).answered, {
          what: "an answer from the service",
          timeoutMs: ANSWER_TIMEOUT_MS,
        });
        assert.match(await routes(site), /dev hf-net/);
        daemon.signal("SIGSTOP");
        assert.deepEqual(await site.ask(family), NOBODY, "while stopped");
        await daemon.kill();
        await until(async () => !(await routes(site)).includes("hf-net"), {
          what: "the route to go with the TUN",
          timeoutMs: 5000,
        });
        assert.match(await routes(site), new RegExp(`^blackhole ${service}`));
        assert.deepEqual(await site.ask(family), NOBODY, "when dead");
        const table = await ip(version, "-n", site.service, "route", "show", "table", "100");
        assert.match(table, /^blackhole default/, "what comes from the address goes nowhere");
      }),
  );

  netTest(
    `setUpServiceNetwork() survives a crash and removes what it made (IPv${family})`,
    ["ping"],
    () =>
      withSite(async (site) => {
        const route = ["route", "get", FAMILIES[family].client.split("/")[0]];
        const state = async () => ({
          rules: await ip(version, "-n", site.service, "rule", "show"),
          filters: await site.filterRules(family),
          links: (await ip("-n", site.host, "link", "show")).match(/hf[\w-]+/g),
        });
        const crashed = await site.start(family, "caller");
        const before = await state();
        const uplink = /"uplink":\{"up":(true|false)/.exec(crashed.output())![1];
        assert.equal(before.filters.some((rule) => rule.includes("MASQUERADE")), uplink === "true");
        await crashed.kill();
        const daemon = await site.start(family, "caller");
        assert.deepEqual(await state(), before, "after a crash and a new start");
        const fromService = await ip(version, "-n", site.service, ...route, "from", service);
        assert.match(fromService, /dev hf-app/);
        const other = await ip(version, "-n", site.service, ...route);
        assert.match(other, /dev hf-up/);
        const client = FAMILIES[family].client.split("/")[0];
        const ping = startProcess("ping", [version, "-c", "1", "-W", "2", client], {
          namespace: site.service,
        });
        assert.equal((await ping.waitForExit(5000)).code === 0, uplink === "true", "the uplink");
        await daemon.closeInput();
        await daemon.mustSucceed(ANSWER_TIMEOUT_MS);
        assert.doesNotMatch(await ip("-n", site.host, "link", "show"), /hf/);
        assert.equal(await routes(site), "");
        assert.deepEqual(await site.filterRules(family), []);
      }),
  );
}

netTest("openTun() and Netlink act in the namespace of the thread", [], () =>
  withSite((site) => {
    const address = parseAddress("10.77.1.1");
    const inside = inNamespace(site.client, () => {
      const { fd } = openTun("hft0", { offload: true });
      const netlink = new Netlink();
      const { index } = netlink.link("hft0");
      netlink.change(encodeLinkUp(index, { mtu: 1400 }), "switch hft0 on");
      for (let i = 0; i < 2; i++) netlink.change(encodeAddress(address, index), "add an address");
      assert.throws(() => openTun("hft0", { offload: true }), /hft0.*exists.*EBUSY/);
      return { fd, netlink };
    });
    assert.equal(inside.netlink.link("hft0").mtu, 1400);
    const outside = new Netlink();
    assert.throws(() => outside.link("hft0"), (error: SystemError) => error.errno === Errno.ENODEV);
    libc.close(inside.fd);
    assert.throws(() => inside.netlink.link("hft0"), /interface hft0.*ENODEV/);
    assert.throws(
      () => inside.netlink.change(encodeAddress(address, 9999), "add an address to nothing"),
      /Cannot add an address to nothing.*ENODEV/,
    );
    outside.close();
    inside.netlink.close();
    return Promise.resolve();
  }));

/** Waits for one event of a descriptor. */
function waitFor(fd: number, event: number): boolean {
  pollfd.view.setInt32(0, fd, true);
  pollfd.view.setInt16(4, event, true);
  return libc.poll(pollfd.address, 1, 2000) === 1;
}
const pollfd = new Memory(8);
const data = new Memory(64);

for (const any of ["127.0.0.1:0", "[::1]:0"]) {
  Deno.test(`bindUdp() and sendTo() carry datagrams at ${any}`, () => {
    const open = bindUdp(parseHostPort(any), { receiveBufferSize: 1 << 20 });
    const directed = bindUdp(parseHostPort(any), { remote: localEndpoint(open) });
    try {
      assert.equal(libc.send(directed, data.address, 5, 0), 5);
      assert.ok(waitFor(open, POLLIN));
      assert.equal(libc.recv(open, data.address, 64, 0), 5);
      const datagram = { address: data.address, length: 7 };
      assert.ok(sendTo(open, localEndpoint(directed), datagram));
      assert.ok(waitFor(directed, POLLIN));
      assert.equal(libc.recv(directed, data.address, 64, 0), 7);
      assert.throws(() => bindUdp(localEndpoint(open)), /Cannot bind to .*EADDRINUSE/);
    } finally {
      libc.close(open);
      libc.close(directed);
    }
  });

  Deno.test(`connectTcp() and acceptTcp() meet at ${any}, or say why not`, () => {
    const listener = listenTcp(parseHostPort(any));
    const server = localEndpoint(listener);
    assert.equal(acceptTcp(listener), null);
    const connection = connectTcp(parseHostPort(any), server);
    assert.ok(waitFor(connection, POLLOUT));
    assert.equal(socketError(connection), 0);
    const accepted = acceptTcp(listener);
    assert.equal(formatHostPort(accepted!.remote), formatHostPort(localEndpoint(connection)));
    for (const fd of [accepted!.fd, connection, listener]) libc.close(fd);
    const refused = connectTcp(parseHostPort(any), server);
    assert.ok(waitFor(refused, POLLOUT));
    assert.equal(socketError(refused), Errno.ECONNREFUSED);
    libc.close(refused);
  });
}

Deno.test("mailbox() keeps messages whole, says when it is full, and when nobody is there", () => {
  const { near, far } = mailbox();
  assert.equal(take(far), null);
  for (const text of ["é", "x".repeat(MAILBOX_LENGTH_MAX)]) {
    assert.ok(post(near, text));
    assert.ok(waitFor(far, POLLIN));
    assert.equal(take(far), text);
  }
  for (const text of ["", "x".repeat(MAILBOX_LENGTH_MAX + 1), "é".repeat(MAILBOX_LENGTH_MAX)]) {
    assert.throws(() => post(near, text), RangeError);
  }
  let posted = 0;
  while (posted < 10_000 && post(near, `${posted}`)) posted++;
  assert.ok(posted < 10_000, "a mailbox has a limit");
  for (let i = 0; i < posted; i++) assert.equal(take(far), `${i}`);
  assert.equal(peerCredentials(near).pid, Deno.pid);
  libc.close(near);
  assert.throws(() => take(far), /EPIPE/);
  assert.throws(() => post(far, "late"), /EPIPE/);
  libc.close(far);
});
