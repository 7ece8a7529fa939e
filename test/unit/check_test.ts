/**
 * check_test.ts - the parts of `holdfast check` that need no host
 *
 * What tries this host is run for real in test/net/program_test.ts.
 */
import { deepStrictEqual, match, rejects, strictEqual } from "node:assert/strict";
import { fileSystemOf, tryDisk } from "../../runtime/cli/check_disk.ts";
import { isInNetwork, renderReport } from "../../runtime/cli/check.ts";

Deno.test("isInNetwork() compares the bits of the network and no more", () => {
  const cases: [string, string, number, boolean][] = [
    ["10.0.0.100", "10.0.0.1", 24, true],
    ["10.0.1.100", "10.0.0.1", 24, false],
    ["10.0.1.100", "10.0.0.1", 23, true],
    ["10.0.0.129", "10.0.0.1", 25, false],
    ["10.0.0.1", "10.0.0.1", 32, true],
    ["10.0.0.2", "10.0.0.1", 32, false],
    ["203.0.113.1", "10.0.0.1", 0, true],
    ["fd00::100", "fd00::1", 64, true],
    ["fd00:0:0:1::100", "fd00::1", 64, false],
    ["fd00:0:0:1::100", "fd00::1", 63, true],
    ["10.0.0.1", "::a00:1", 0, false],
  ];
  for (const [address, network, length, expected] of cases) {
    strictEqual(isInNetwork(address, network, length), expected, `${address} ${network}/${length}`);
  }
});

Deno.test("renderReport() puts a remedy under what needs one and counts", () => {
  strictEqual(
    renderReport({
      file: "a.toml",
      ok: false,
      items: [
        { name: "kernel", result: "ok", found: "Linux 6.1", fix: null },
        { name: "web: run", result: "fail", found: "there is no program nginx", fix: "install it" },
        { name: "rp_filter", result: "warn", found: "strict", fix: null },
      ],
    }),
    `ok    kernel     Linux 6.1
fail  web: run   there is no program nginx
                 -> install it
warn  rp_filter  strict

1 ok, 1 to improve, 1 to mend
`,
  );
});

Deno.test("fileSystemOf() finds the file system that is mounted nearest above a path", () => {
  const mounts = [
    "/dev/sda1 / ext4 rw 0 0",
    "tmpfs /run tmpfs rw 0 0",
    "/dev/sdb1 /var/lib/my\\040disk xfs rw 0 0",
    "none /run/holdfast ext4 rw 0 0",
    "",
  ].join("\n");
  strictEqual(fileSystemOf("/var/lib/holdfast", mounts), "ext4");
  strictEqual(fileSystemOf("/run", mounts), "tmpfs");
  strictEqual(fileSystemOf("/running", mounts), "ext4");
  strictEqual(fileSystemOf("/run/holdfast/web.log", mounts), "ext4");
  strictEqual(fileSystemOf("/var/lib/my disk/web.log", mounts), "xfs");
  strictEqual(fileSystemOf("/", ""), null);
});

Deno.test("tryDisk() measures how long a block takes, and leaves nothing behind", async () => {
  const directory = await Deno.makeTempDir({ prefix: "holdfast-disk-" });
  try {
    const { found } = await tryDisk(directory);
    match(found, new RegExp(`^${directory} (on \\S+: a block is durable after|is in memory)`));
    deepStrictEqual([...Deno.readDirSync(directory)], []);
    await rejects(tryDisk(`${directory}/none`));
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
