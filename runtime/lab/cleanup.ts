/**
 * cleanup.ts - what a run has made goes away with it, however it ends
 *
 * Theory of operation
 * `onProcessEnd()` registers a synchronous function. It is called once when the process ends by
 * SIGINT, SIGTERM or SIGHUP, by an error that nobody catches, by Deno.exit() or by coming to its end;
 * not by SIGKILL, after which Topology.sweep() of a later run finds the rest. The listeners exist only while
 * something is registered.
 *
 * Sources: signal(7); exit status 128 + n after signal n is the convention of shells.
 */

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
const EVENTS = ["error", "unhandledrejection", "unload"] as const;

const actions = new Set<() => void>();
const listeners = Object.entries(SIGNALS).map(([name, number]) => ({
  signal: name as Deno.Signal,
  handle: () => {
    runAll();
    Deno.exit(128 + number);
  },
}));

/**
 * Has `action` called when this process ends.
 *
 * @param action Synchronous; what it throws is printed and keeps no other action from its turn.
 * @returns A function that takes the registration back.
 */
export function onProcessEnd(action: () => void): () => void {
  if (actions.size === 0) listen();
  actions.add(action);
  return () => {
    if (actions.delete(action) && actions.size === 0) unlisten();
  };
}

function listen(): void {
  for (const { signal, handle } of listeners) Deno.addSignalListener(signal, handle);
  for (const event of EVENTS) globalThis.addEventListener(event, runAll);
}

function unlisten(): void {
  for (const { signal, handle } of listeners) Deno.removeSignalListener(signal, handle);
  for (const event of EVENTS) globalThis.removeEventListener(event, runAll);
}

function runAll(): void {
  for (const action of actions) {
    actions.delete(action);
    try {
      action();
    } catch (error) {
      console.error(error);
    }
  }
}
