/**
 * neighbour_frame_test.ts - ARP and Neighbor Discovery frames, octet by octet
 *
 * Expected frames are written out from RFC 826, RFC 5227 and RFC 4861.
 */
import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import { parseAddress } from "../../runtime/io/address.ts";
import {
  encodeAnnouncement,
  encodeAnswer,
  icmpv6Checksum,
  solicitedNodeGroup,
} from "../../runtime/io/neighbour_frame.ts";

/** Octets written as hexadecimal, blanks ignored. */
function hex(text: string): Uint8Array {
  return Uint8Array.from(
    text.replaceAll(/\s/g, "").match(/../g) ?? [],
    (pair) => parseInt(pair, 16),
  );
}

const OWN_MAC = hex("02aabbccddee");
const THEIR_MAC = hex("021122334455");
const V4 = parseAddress("10.0.0.100");
const V6 = parseAddress("fd01::100");

const ARP_REQUEST = hex(`ffffffffffff 021122334455 0806 0001 0800 06 04 0001
                         021122334455 0a000002 000000000000 0a000064`);

/** A Neighbor Solicitation for `fd01::100`, its checksum filled in. */
function solicitation(source = "fd010000000000000000000000000002"): Uint8Array {
  const frame = hex(`3333ff000100 021122334455 86dd 60000000 0020 3a ff
                     ${source} ff0200000000000000000001ff000100
                     87 00 0000 00000000 fd010000000000000000000000000100 01 01 021122334455`);
  new DataView(frame.buffer).setUint16(56, icmpv6Checksum(frame.subarray(14)));
  return frame;
}

Deno.test("encodeAnnouncement() makes the ARP announcement of RFC 5227", () => {
  deepStrictEqual(
    Uint8Array.from(encodeAnnouncement(V4, OWN_MAC)),
    hex(`ffffffffffff 02aabbccddee 0806 0001 0800 06 04 0001
         02aabbccddee 0a000064 000000000000 0a000064`),
  );
});

Deno.test("encodeAnnouncement() makes an unsolicited Neighbor Advertisement that overrides", () => {
  deepStrictEqual(
    Uint8Array.from(encodeAnnouncement(V6, OWN_MAC)),
    hex(`333300000001 02aabbccddee 86dd 60000000 0020 3a ff
         fd010000000000000000000000000100 ff020000000000000000000000000001
         88 00 ${expectedChecksum()} 20000000 fd010000000000000000000000000100 02 01 02aabbccddee`),
  );
});

/** The sum of every 16-bit word that RFC 4443 section 2.3 covers, term by term. */
function expectedChecksum(): string {
  const addresses = 0xfd01 + 0x0100 + 0xff02 + 0x0001;
  const pseudoHeader = 0x0020 + 0x003a;
  const message = 0x8800 + 0x2000 + 0xfd01 + 0x0100 + 0x0201 + 0x02aa + 0xbbcc + 0xddee;
  const sum = addresses + pseudoHeader + message;
  const folded = (sum & 0xffff) + (sum >>> 16);
  return (~folded & 0xffff).toString(16).padStart(4, "0");
}

Deno.test("encodeAnnouncement() refuses what is not an Ethernet address", () => {
  throws(() => encodeAnnouncement(V4, new Uint8Array(0)), /0 octets: allowed is 6/);
});

Deno.test("encodeAnswer() answers an ARP request to the one who asked", () => {
  deepStrictEqual(
    Uint8Array.from(encodeAnswer(V4, OWN_MAC, ARP_REQUEST)!),
    hex(`021122334455 02aabbccddee 0806 0001 0800 06 04 0002
         02aabbccddee 0a000064 021122334455 0a000002`),
  );
});

Deno.test("encodeAnswer() answers a solicitation, solicited and overriding", () => {
  const answer = encodeAnswer(V6, OWN_MAC, solicitation())!;
  deepStrictEqual(answer.slice(0, 6), Uint8Array.from(THEIR_MAC));
  deepStrictEqual(Uint8Array.from(answer.slice(38, 54)), hex("fd010000000000000000000000000002"));
  strictEqual(answer[58], 0x60);
  strictEqual(icmpv6Checksum(answer.subarray(14)), 0);
});

Deno.test("encodeAnswer() defends the address against one who wants it, to all nodes", () => {
  const answer = encodeAnswer(V6, OWN_MAC, solicitation("00".repeat(16)))!;
  deepStrictEqual(Uint8Array.from(answer.slice(0, 6)), hex("333300000001"));
  strictEqual(answer[58], 0x20);
});

Deno.test("encodeAnswer() is silent to what is not a question for the address", () => {
  for (const [address, frame] of [[V4, ARP_REQUEST], [V6, solicitation()]] as const) {
    for (let length = 0; length < frame.length; length++) {
      strictEqual(encodeAnswer(address, OWN_MAC, frame.subarray(0, length)), null);
    }
    strictEqual(encodeAnswer(address, OWN_MAC, encodeAnnouncement(address, THEIR_MAC)), null);
  }
  const changed = (frame: Uint8Array, offset: number) => frame.with(offset, frame[offset] ^ 0x10);
  for (const offset of [12, 20, 41]) {
    strictEqual(encodeAnswer(V4, OWN_MAC, changed(ARP_REQUEST, offset)), null);
  }
  // EtherType, next header, hop limit, type, code, checksum, target
  for (const offset of [12, 20, 21, 54, 55, 56, 77]) {
    strictEqual(encodeAnswer(V6, OWN_MAC, changed(solicitation(), offset)), null);
  }
});

Deno.test("solicitedNodeGroup() keeps the last three octets", () => {
  strictEqual(solicitedNodeGroup(parseAddress("fd01::aa:bbcc")).text, "ff02::1:ffaa:bbcc");
});
