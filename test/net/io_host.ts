/**
 * io_host.ts - the network parts of a daemon alone, driven line by line on standard input
 *
 * Theory of operation
 * Makes a service network and a claim from the options in its only argument (JSON), then moves packets
 * between the two TUNs unchanged and answers neighbours, looking every millisecond. Each line on standard
 * input is a command, acknowledged by a line on standard output:
 *
 *   claim      claim and announce the address      "claimed"
 *   release    let it go                           "released"
 *   time       claim, announce, release 100 times  "median N us"
 *
 * The end of standard input takes everything down.
 */

import { AddressClaim, type AddressClaimOptions } from "../../runtime/io/address_claim.ts";
import { libc, Memory } from "../../runtime/io/libc.ts";
import {
  type ServiceNetworkOptions,
  setUpServiceNetwork,
  tearDownServiceNetwork,
} from "../../runtime/io/namespace.ts";

const PACKETS_MAX = 64;
const ROUNDS = 100;

type Options = ServiceNetworkOptions & Pick<AddressClaimOptions, "answers">;

const options: Options = JSON.parse(Deno.args[0]);
const network = await setUpServiceNetwork(options);
const claim = new AddressClaim({ ...options, tunName: network.netName });
claim.prepare();
const packet = new Memory(70_000);
const timer = setInterval(() => {
  claim.answerNeighbours();
  move(network.netFd, network.appFd);
  move(network.appFd, network.netFd);
}, 1);
console.log(`ready ${JSON.stringify({ uplink: network.uplink, mtu: network.mtu })}`);

for await (const line of lines()) {
  if (line === "claim") {
    claim.claim();
    claim.announce();
    console.log("claimed");
  } else if (line === "release") {
    claim.release();
    console.log("released");
  } else if (line === "time") {
    console.log(`median ${medianClaimUs()} us`);
  } else {
    throw new RangeError(`Cannot obey "${line}": allowed are claim, release and time`);
  }
}
clearInterval(timer);
claim.close();
await tearDownServiceNetwork(network);

/** Moves what waits at one descriptor to the other. */
function move(from: number, to: number): void {
  for (let i = 0; i < PACKETS_MAX; i++) {
    const length = libc.read(from, packet.address, packet.bytes.length);
    if (length <= 0) return;
    libc.write(to, packet.address, length);
  }
}

/** How long a claim with its announcement takes, in microseconds. */
function medianClaimUs(): number {
  const times: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const startMs = performance.now();
    claim.claim();
    claim.announce();
    times.push(performance.now() - startMs);
    claim.release();
  }
  return Math.round(times.sort((a, b) => a - b)[ROUNDS / 2] * 1000);
}

/** Standard input by lines. */
async function* lines(): AsyncGenerator<string> {
  let rest = "";
  for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
}
