/**
 * statistics.ts - a few numbers that stand for many
 *
 * Theory of operation
 * Percentiles are nearest-rank: always a value that was measured, never one between two. With few
 * samples the 99th percentile therefore is the greatest.
 */

/** A series of measurements in short. */
export interface Summary {
  /** How many. */
  count: number;
  /** The least. */
  min: number;
  /** Half are not greater. */
  median: number;
  /** 1 % at most are greater. */
  p99: number;
  /** The greatest. */
  max: number;
}

/**
 * The value that `percent` of all do not exceed, by nearest rank.
 *
 * @param percent Above 0, up to 100.
 * @returns NaN without values.
 */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.ceil(sorted.length * percent / 100) - 1] ?? NaN;
}

/** Sums a series up; all but `count` are NaN when it is empty. */
export function summarize(values: readonly number[]): Summary {
  return {
    count: values.length,
    min: values.length === 0 ? NaN : Math.min(...values),
    median: percentile(values, 50),
    p99: percentile(values, 99),
    max: percentile(values, 100),
  };
}
