/**
 * netlink_message_test.ts - rtnetlink requests, octet by octet
 *
 * Expected octets are what ip(8) sends for the same thing; answers of the kernel are cut at every place.
 */
import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import { parseAddress } from "../../runtime/io/address.ts";
import {
  decodeLink,
  decodeVerdict,
  encodeAddress,
  encodeLinkQuery,
  encodeLinkUp,
  encodeProxyNeighbour,
  encodeRoute,
  encodeRule,
  TABLE_MAIN,
} from "../../runtime/io/netlink_message.ts";

/** Octets written as hexadecimal, blanks ignored. */
function hex(text: string): Uint8Array {
  return Uint8Array.from(
    text.replaceAll(/\s/g, "").match(/../g) ?? [],
    (pair) => parseInt(pair, 16),
  );
}

const V4 = parseAddress("10.0.0.100");
const V6 = parseAddress("fd00::100");

Deno.test("encodeRoute() writes what ip(8) sends for a route through an interface", () => {
  const route = { destination: V4, version: 4, interfaceIndex: 7, metric: 1 } as const;
  deepStrictEqual(
    Uint8Array.from(encodeRoute("add", { ...route, table: TABLE_MAIN })),
    hex(`34000000 1800 0505 00000000 00000000
         02 20 00 00 fe 04 fd 01 00000000
         0800 0100 0a000064
         0800 0400 07000000
         0800 0600 01000000`),
  );
});

Deno.test("encodeRoute() writes a blackhole for everything, and its deletion", () => {
  const route = {
    destination: null,
    version: 6,
    interfaceIndex: null,
    metric: 0x7fffffff,
  } as const;
  deepStrictEqual(
    Uint8Array.from(encodeRoute("delete", { ...route, table: 100 })),
    hex(`24000000 1900 0500 00000000 00000000
         0a 00 00 00 64 04 00 06 00000000
         0800 0600 ffffff7f`),
  );
});

Deno.test("encodeProxyNeighbour() sets NTF_PROXY", () => {
  deepStrictEqual(
    Uint8Array.from(encodeProxyNeighbour("add", { address: V6, interfaceIndex: 3 })),
    hex(`30000000 1c00 0505 00000000 00000000
         0a 00 0000 03000000 8000 08 00
         1400 0100 fd000000000000000000000000000100`),
  );
});

Deno.test("encodeAddress() gives one address; IPv6 without duplicate address detection", () => {
  deepStrictEqual(
    Uint8Array.from(encodeAddress(V4, 3)),
    hex(`28000000 1400 0505 00000000 00000000
         02 20 00 00 03000000
         0800 0200 0a000064
         0800 0100 0a000064`),
  );
  strictEqual(encodeAddress(V6, 3)[18], 0x02);
});

Deno.test("encodeLinkUp() changes IFF_UP and the sizes that are given", () => {
  deepStrictEqual(
    Uint8Array.from(encodeLinkUp(3, { mtu: 1500, transmitQueueLength: 4096 })),
    hex(`30000000 1000 0500 00000000 00000000
         00000000 03000000 01000000 01000000
         0800 0400 dc050000
         0800 0d00 00100000`),
  );
  strictEqual(encodeLinkUp(3).length, 32);
});

Deno.test("encodeLinkQuery() pads the name to four octets outside its length", () => {
  deepStrictEqual(
    Uint8Array.from(encodeLinkQuery("eth0")),
    hex(`2c000000 1200 0500 00000000 00000000
         00000000 00000000 00000000 00000000
         0900 0300 65746830 00 000000`),
  );
});

Deno.test("encodeRule() adds exclusively and deletes by priority", () => {
  const rule = { version: 4, table: 100, priority: 100 } as const;
  deepStrictEqual(
    Uint8Array.from(encodeRule("add", { ...rule, source: V4 })),
    hex(`2c000000 2000 0506 00000000 00000000
         02 00 20 00 64 00 00 01 00000000
         0800 0200 0a000064
         0800 0600 64000000`),
  );
  deepStrictEqual(
    Uint8Array.from(encodeRule("delete", { ...rule, source: null })),
    hex(`24000000 2100 0500 00000000 00000000
         02 00 00 00 64 00 00 01 00000000
         0800 0600 64000000`),
  );
});

Deno.test("decodeVerdict() reads acknowledgements and refusals, capped or quoting", () => {
  const header = "1800 0505 01000000 00000000";
  const acknowledgement = hex(`24000000 0200 0001 01000000 00000000 00000000 34000000 ${header}`);
  deepStrictEqual(decodeVerdict(acknowledgement), { errno: 0, text: "" });
  const text = "0800 0100 6e6f2100";
  const capped = hex(`2c000000 0200 0003 01000000 00000000 efffffff 34000000 ${header} ${text}`);
  deepStrictEqual(decodeVerdict(capped), { errno: 17, text: "no!" });
  const quoting = hex(
    `30000000 0200 0002 01000000 00000000 efffffff 14000000 ${header} 00000000 ${text}`,
  );
  deepStrictEqual(decodeVerdict(quoting), { errno: 17, text: "no!" });
});

Deno.test("decodeVerdict() and decodeLink() stand any octets, cut anywhere", () => {
  const link = hex(`34000000 1000 0000 01000000 00000000
                    00000100 05000000 43100100 00000000
                    0a00 0100 020000000001 0000
                    0800 0400 dc050000`);
  deepStrictEqual(decodeLink(link), {
    index: 5,
    hardwareAddress: Uint8Array.of(2, 0, 0, 0, 0, 1),
    mtu: 1500,
  });
  for (let length = 0; length < link.length; length++) {
    throws(() => decodeLink(link.subarray(0, length)), RangeError);
  }
  for (let length = 0; length < 36; length++) {
    throws(() => decodeVerdict(link.subarray(0, length)), RangeError);
  }
  for (const fill of [0, 0x7f, 0xff]) {
    decodeVerdict(new Uint8Array(64).fill(fill));
    throws(() => decodeLink(new Uint8Array(64).fill(fill)), RangeError);
  }
});
