/**
 * check.ts - what a checker is: it sees what happens in a simulated run and throws when a promise breaks
 */
import type { Endpoint } from "../../unit/endpoint.ts";
import type { Packet } from "../../unit/twin.ts";
import type { RegisterValue } from "../../../runtime/protocol/register.ts";
import type { SimHost, TakeoverStep } from "../host.ts";
import type { Client } from "../traffic.ts";

/** A promise that did not hold. */
export class Violation extends Error {
  /** Always "Violation". */
  override readonly name = "Violation";
  /** Name of the checker. */
  readonly check: string;

  /** Says which checker saw what. */
  constructor(check: string, what: string) {
    super(`${check}: ${what}`);
    this.check = check;
  }
}

/** What a checker may look at. */
export interface Scene {
  /** Both hosts. */
  readonly hosts: readonly SimHost[];
  /** All clients, by port. */
  readonly clients: ReadonlyMap<number, Client>;
  /** What clients were told of each connection, by port, as it left the hosts. */
  readonly told: ReadonlyMap<number, Told>;
  /** When client-bound segments may leave. */
  readonly commit: "strict" | "ack";
  /** True time, milliseconds. */
  readonly nowMs: number;
  /** One host is primary, the other its standby, and both are ready. */
  readonly isSettled: boolean;
  /** This schedule lasts until records of ended connections must be gone. */
  readonly awaitsRecords: boolean;
  /** Nothing of what a host says reaches clients: its card is dead. */
  isSilent(host: SimHost): boolean;
}

/** What has left for the client of one connection. */
export interface Told {
  /** Highest SEG.ACK. */
  ack: number;
  /** Octets of the answer, its end counted as one. */
  said: number;
  /** Number of the answer's first octet. */
  first: number;
}

/** A checker; each method is called when it happens. */
export interface Check {
  /** Its name, as in `Violation`. */
  readonly name: string;
  /** A packet has left a host for a client; `told` includes it. */
  said?(host: SimHost, packet: Packet): void;
  /** A takeover has come so far. */
  reached?(host: SimHost, step: TakeoverStep): void;
  /** A host is about to store an epoch. */
  stored?(host: SimHost, epoch: number): void;
  /** The register has taken a value. */
  registered?(value: RegisterValue): void;
  /** A client has received something. */
  heard?(client: Client): void;
  /** A server has received something for a client's connection. */
  read?(client: Client, server: Endpoint): void;
  /** A host has finished a pass. */
  passed?(host: SimHost): void;
  /** All faults were mended, all connections have ended, and hosts had time to find their roles. */
  ended?(): void;
}
