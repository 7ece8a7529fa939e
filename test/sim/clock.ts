/**
 * clock.ts - simulated time: what is to happen, in the order of its moments
 *
 * A binary heap of events; equal moments in the order in which they were planned, so that a run
 * depends on nothing but its seed. Milliseconds, fractions allowed.
 */

interface Event {
  atMs: number;
  order: number;
  act: () => void;
}

/** Most events that may wait at a time. */
const EVENTS_MAX = 20_000;

/** Events of one run. */
export class Clock {
  /** Now. */
  nowMs = 0;
  readonly #heap: Event[] = [];
  #order = 0;

  /** Plans `act` for `ms` from now. */
  after(ms: number, act: () => void): void {
    const heap = this.#heap;
    if (heap.length === EVENTS_MAX) throw new Error("Cannot plan an event: too many wait already");
    const event = { atMs: this.nowMs + Math.max(0, ms), order: this.#order++, act };
    let i = heap.length;
    heap.push(event);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!isBefore(event, heap[parent])) break;
      heap[i] = heap[parent];
      i = parent;
    }
    heap[i] = event;
  }

  /** Lets time pass until `endMs`, or until `done` says so after an event. */
  run(endMs: number, done: () => boolean = () => false): void {
    while (this.#heap.length > 0 && this.#heap[0].atMs <= endMs) {
      const event = this.#pop();
      this.nowMs = event.atMs;
      event.act();
      if (done()) return;
    }
    this.nowMs = Math.max(this.nowMs, endMs);
  }

  #pop(): Event {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop()!;
    const { length } = heap;
    if (length === 0) return first;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= length) break;
      if (child + 1 < length && isBefore(heap[child + 1], heap[child])) child++;
      if (!isBefore(heap[child], last)) break;
      heap[i] = heap[child];
      i = child;
    }
    heap[i] = last;
    return first;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
