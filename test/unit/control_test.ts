/**
 * control_test.ts - the control socket, over real Unix sockets in a directory of its own
 *
 * Behind it is a node in memory: what is tested is the way to a daemon, and how it fails.
 */
import { deepStrictEqual, match, ok, rejects, strictEqual } from "node:assert/strict";
import {
  BODY_LENGTH_MAX,
  ControlClient,
  ControlError,
  isListening,
  renderMetrics,
  startControl,
} from "../../runtime/control.ts";
import type {
  ConnectionInfo,
  DaemonApi,
  NodeStatus,
  RestartResult,
  SwitchResult,
} from "../../runtime/status.ts";

const STATUS: NodeStatus = {
  node: "a",
  version: "0.1.0",
  services: [{
    name: "web",
    address: "10.0.0.100",
    ports: [80],
    mode: "hot",
    role: "primary",
    epoch: 3,
    protected: true,
    app: { state: "running", pid: 4711, restarts: 2 },
    connections: { total: 10, hot: 9, log: 0, unprotected: 1 },
    lastTakeover: {
      reason: "peer-silent",
      detectMs: 31.2,
      takeoverMs: 3.1,
      connections: 10,
      at: "2026-11-22T04:17:13.963Z",
      timeline: {
        lastHeartbeatMs: 1_795_321_033_931.5,
        suspectMs: 1_795_321_033_963.25,
        adoptedMs: 1_795_321_033_964,
        claimedMs: 1_795_321_033_965.5,
        firstByteMs: 1_795_321_033_966.25,
      },
    },
    counters: { opened: 12 },
    arbitration: { asking: null, reachable: null, last: null },
    speaks: true,
    judgements: [],
    warnings: [],
    recovery: null,
    store: null,
    copies: { wanted: 1, held: 1, chain: ["b"] },
  }],
  arbiter: { kind: "witness", where: "10.0.0.9:7950", reachable: true },
  peers: [{
    name: 'b"\\\n',
    links: [{ local: "10.0.0.1:7946", remote: "10.0.0.2:7946", up: true, rttUs: 120 }],
    control: "up",
    refused: { datagram: 3, connection: 0, frame: 0, control: 0 },
  }],
};

const CONNECTIONS: ConnectionInfo[] = [{
  service: "web",
  client: "10.0.0.2:51234",
  port: 80,
  state: "established",
  protection: "hot",
  reason: null,
  note: null,
  bytesIn: 1,
  bytesOut: 2,
  ageMs: 3,
  idleMs: 4,
}];

/** A node in memory: a switch moves the service to "b", once. */
class MemoryNode implements DaemonApi {
  #owner = "a";
  #ready = true;

  /** Ends the data plane. */
  fail(): void {
    this.#ready = false;
  }

  status(): Promise<NodeStatus> {
    if (!this.#ready) return Promise.reject(new Error("The data plane ended: trap"));
    return Promise.resolve(STATUS);
  }

  connections(): Promise<ConnectionInfo[]> {
    return Promise.resolve(CONNECTIONS);
  }

  switchService(service: string, to = "b"): Promise<SwitchResult> {
    if (this.#owner !== "a" || to !== "b") {
      return Promise.reject(
        new Error(`Cannot switch ${service} to ${to}: it is at ${this.#owner}`),
      );
    }
    this.#owner = to;
    return Promise.resolve({ service, from: "a", to, epoch: 4, connections: 10, gapMs: 3 });
  }

  restartService(service: string): Promise<RestartResult> {
    return Promise.resolve({ service, connections: 3, tookMs: 250 });
  }

  stop(): Promise<void> {
    return Promise.resolve();
  }
}

async function withDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-test-" });
  try {
    await body(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** A node in memory behind a socket. */
async function withControl(
  body: (path: string, node: MemoryNode) => Promise<void>,
): Promise<void> {
  await withDirectory(async (directory) => {
    const path = `${directory}/run/a.sock`;
    const server = await startControl(path);
    const node = new MemoryNode();
    server.attach(node);
    try {
      await body(path, node);
    } finally {
      await server.close();
    }
  });
}

/** Sends a request that the client would not make. */
async function ask(path: string, pathname: string, init: RequestInit): Promise<[number, string]> {
  const client = Deno.createHttpClient({ proxy: { transport: "unix", path } });
  try {
    const response = await fetch(`http://127.0.0.1${pathname}`, { ...init, client });
    return [response.status, await response.text()];
  } finally {
    client.close();
  }
}

Deno.test("ControlClient gets what the daemon says", async () => {
  await withControl(async (path) => {
    const client = new ControlClient(path);
    deepStrictEqual(await client.status(), STATUS);
    deepStrictEqual(await client.connections(), CONNECTIONS);
    const result = { service: "web", from: "a", to: "b", epoch: 4, connections: 10, gapMs: 3 };
    deepStrictEqual(await client.switchService("web", "b"), result);
    const restart = { service: "web", connections: 3, tookMs: 250 };
    deepStrictEqual(await client.restartService("web"), restart);
    await rejects(client.restartService("mail"), {
      status: 404,
      message: 'Cannot restart "mail": services here are web',
    });
    await rejects(client.switchService("web"), (error) => {
      ok(error instanceof ControlError);
      strictEqual(error.status, 409);
      strictEqual(error.message, "Cannot switch web to b: it is at b");
      return true;
    });
    await rejects(client.switchService("mail"), {
      status: 404,
      message: 'Cannot switch "mail": services here are web',
    });
  });
});

Deno.test("startControl() makes a socket for its owner only, and removes it", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/deep/run/a.sock`;
    const umask = Deno.umask();
    const server = await startControl(path);
    strictEqual(Deno.statSync(path).mode! & 0o777, 0o600);
    strictEqual(Deno.umask(), umask);
    await server.close();
    await rejects(Deno.stat(path), Deno.errors.NotFound);
  });
});

Deno.test({
  name: "startControl() answers nobody but root and its own user, whatever the socket's mode",
  ignore: Deno.uid() !== 0 || !isInstalled("curl"),
  fn: async () => {
    const directory = await Deno.makeTempDir();
    const path = `${directory}/a.sock`;
    const server = await startControl(path);
    try {
      server.attach(new MemoryNode());
      await Deno.chmod(directory, 0o755);
      await Deno.chmod(path, 0o666);
      const ask = async (uid: number) => {
        const { stdout } = await new Deno.Command("curl", {
          args: ["--silent", "--unix-socket", path, "http://localhost/status"],
          uid,
          gid: uid,
          clearEnv: true,
        }).output();
        return JSON.parse(new TextDecoder().decode(stdout));
      };
      deepStrictEqual((await ask(0)).node, "a");
      deepStrictEqual(await ask(65534), {
        error: "Cannot answer user 65534: allowed are root and user 0, who runs the daemon",
      });
    } finally {
      await server.close();
      await Deno.remove(directory, { recursive: true });
    }
  },
});

function isInstalled(program: string): boolean {
  try {
    new Deno.Command(program, { args: ["--version"], stdout: "null" }).outputSync();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

Deno.test("startControl() replaces a dead daemon's socket and refuses a live one's", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/a.sock`;
    const script = `const s = Deno.listen({ transport: "unix", path: "${path}" }); s; Deno.exit(0)`;
    await new Deno.Command(Deno.execPath(), { args: ["eval", script] }).output();
    strictEqual(Deno.statSync(path).isSocket, true);
    strictEqual(await isListening(path), false);
    const server = await startControl(path);
    try {
      await rejects(startControl(path), {
        message: `Cannot listen on ${path}: a daemon is listening there; stop it first`,
      });
      strictEqual(await isListening(path), true);
    } finally {
      await server.close();
    }
  });
});

Deno.test("startControl() closes what it has opened, with more clients at a time than it takes, and hasty ones", async () => {
  await withControl(async (path) => {
    const count = () => [...Deno.readDirSync("/proc/self/fd")].length;
    await ask(path, "/status", {});
    const before = count();
    for (let i = 0; i < 20; i++) {
      const answers = Array.from({ length: 50 }, () => ask(path, "/healthz", {}));
      for (const [status] of await Promise.all(answers)) strictEqual(status, 200);
      const hasty = Array.from({ length: 10 }, () => Deno.connect({ transport: "unix", path }));
      for (const connection of await Promise.all(hasty)) connection.close();
    }
    // What was closed at the other end is closed here a moment later.
    for (let i = 0; i < 500 && count() > before; i++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    ok(count() <= before, `${count()} descriptors, ${before} before`);
  });
});

Deno.test("startControl() does not remove a file that is no socket", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/a.sock`;
    await Deno.writeTextFile(path, "precious");
    await rejects(startControl(path), /a file that is no socket is in the way/);
    strictEqual(await Deno.readTextFile(path), "precious");
  });
});

Deno.test("startControl() answers 503 until a daemon is attached, and when its data plane is gone", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/a.sock`;
    const server = await startControl(path);
    try {
      const client = new ControlClient(path);
      await rejects(client.status(), { status: 503, message: /is starting/ });
      const node = new MemoryNode();
      server.attach(node);
      deepStrictEqual(await ask(path, "/healthz", {}), [200, '{"ok":true}']);
      node.fail();
      deepStrictEqual(await ask(path, "/healthz", {}), [
        503,
        '{"error":"The data plane ended: trap"}',
      ]);
    } finally {
      await server.close();
    }
  });
});

Deno.test("startControl() refuses requests that make no sense", async () => {
  await withControl(async (path) => {
    const post = (body: string): RequestInit => ({ method: "POST", body });
    const cases: [string, RequestInit, number, RegExp][] = [
      ["/nothing", {}, 404, /allowed are GET \/status/],
      ["/status", post(""), 404, /Cannot POST \/status/],
      ["/constructor", {}, 404, /Cannot GET/],
      ["/switch", post("{"), 400, /as JSON: allowed is/],
      ["/switch", post("null"), 400, /Cannot switch null: allowed is/],
      ["/restart", post("{}"), 400, /Cannot restart {}: allowed is/],
      ["/switch", post('{"service":7}'), 400, /allowed is/],
      ["/switch", post('{"service":"web","to":[]}'), 400, /allowed is/],
      ["/switch", post('"' + "x".repeat(BODY_LENGTH_MAX)), 400, /more than 4096 octets/],
    ];
    for (const [pathname, init, status, message] of cases) {
      const [found, text] = await ask(path, pathname, init);
      strictEqual(found, status, text);
      match(JSON.parse(text).error, message);
    }
  });
});

Deno.test("ControlClient says how to start a daemon where none listens", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/a.sock`;
    await rejects(new ControlClient(path).status(), {
      status: 0,
      message:
        `Cannot ask the daemon at ${path}: none is running there; start it with "holdfast up -c FILE"`,
    });
  });
});

Deno.test("ControlClient gives up on a daemon that does not answer", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/a.sock`;
    const listener = Deno.listen({ transport: "unix", path });
    try {
      await rejects(new ControlClient(path, { timeoutMs: 50 }).status(), {
        status: 0,
        message: `Cannot ask the daemon at ${path}: it did not answer within 50 ms`,
      });
    } finally {
      listener.close();
    }
  });
});

Deno.test("renderMetrics() is what Prometheus reads", () => {
  const text = renderMetrics(STATUS);
  const lines = text.trimEnd().split("\n");
  const sample = /^[a-z_]+\{(?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*\} [0-9.e+-]+$/;
  for (const line of lines) ok(line.startsWith("# ") || sample.test(line), line);
  for (
    const line of [
      'holdfast_service_role{service="web",role="primary"} 1',
      'holdfast_service_role{service="web",role="standby"} 0',
      'holdfast_service_epoch{service="web"} 3',
      'holdfast_service_protected{service="web"} 1',
      'holdfast_connections{service="web",protection="unprotected"} 1',
      'holdfast_server_restarts_total{service="web"} 2',
      'holdfast_events_total{service="web",event="opened"} 12',
      'holdfast_last_takeover_seconds{service="web",phase="detect"} 0.0312',
      'holdfast_link_up{peer="b\\"\\\\\\n",local="10.0.0.1:7946",remote="10.0.0.2:7946"} 1',
      "# TYPE holdfast_events_total counter",
      'holdfast_control_up{peer="b\\"\\\\\\n"} 1',
      'holdfast_refused_total{peer="b\\"\\\\\\n",kind="datagram"} 3',
    ]
  ) ok(lines.includes(line), line);
  strictEqual(new Set(lines.filter((line) => line.startsWith("# TYPE"))).size, 14);
  ok(!renderMetrics({ ...STATUS, services: [], peers: [] }).includes("service"));
});
