/**
 * main.ts - the program `holdfast`
 *
 * Theory of operation
 * The command table is in cli/program.ts. The process ends with its exit status as soon as the command is
 * done, whatever timers or sockets are left.
 *
 * Usage: deno run -A runtime/main.ts --help
 */

import { run } from "./cli/program.ts";

if (import.meta.main) Deno.exit(await run(Deno.args));
