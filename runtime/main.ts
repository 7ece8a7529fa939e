/**
 * main.ts - the program `holdfast`
 *
 * Theory of operation
 * The command table is in cli/program.ts. The process ends with its exit status as soon as the command is
 * done, whatever timers or sockets are left.
 *
 * The lab starts servers and clients as processes of their own. Where this is a compiled program, there is
 * no script to start, so it starts itself with the words "lab-server" or "lab-client", which are not for
 * people and not in the table.
 *
 * Usage: deno run -A runtime/main.ts --help
 */

import { run } from "./cli/program.ts";

if (import.meta.main) Deno.exit(await main(Deno.args));

async function main([program, ...rest]: string[]): Promise<number> {
  if (program === "lab-server") return await (await import("./lab/servers.ts")).serversMain(rest);
  if (program === "lab-client") return await (await import("./lab/client.ts")).clientMain(rest);
  return await run(Deno.args);
}
