/**
 * service_unit_test.ts - the sample unit is what systemd accepts
 */
import { strictEqual } from "node:assert/strict";

const UNIT = new URL("../../runtime/holdfast.service", import.meta.url);

/** Where systemd is not installed there is nobody to ask. */
function hasSystemd(): boolean {
  try {
    const { success } = new Deno.Command("systemd-analyze", { args: ["--version"] }).outputSync();
    return success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

Deno.test(
  "systemd-analyze accepts runtime/holdfast.service",
  { ignore: !hasSystemd() },
  async () => {
    const directory = await Deno.makeTempDir({ prefix: "holdfast-test-" });
    try {
      // The program is not installed here; any that is will do.
      const text = (await Deno.readTextFile(UNIT)).replace(
        /^ExecStart=\S+/m,
        "ExecStart=/bin/true",
      );
      const path = `${directory}/holdfast.service`;
      await Deno.writeTextFile(path, text);
      const { code, stderr } = await new Deno.Command("systemd-analyze", {
        args: ["verify", path],
      }).output();
      strictEqual(new TextDecoder().decode(stderr), "");
      strictEqual(code, 0);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
);
