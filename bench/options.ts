/**
 * options.ts - the command lines of the suites
 *
 * All suites take --quick, --add, --out FILE, --against FILE and --help, and whole numbers of their own, each
 * with a usual and a quick value; one that can measure a part of itself anew takes --again too. What is wrong is
 * told on standard error with the usage, and gives exit status 2.
 */

import { parseArgs } from "node:util";

/** What a suite takes. */
export interface OptionsPlan<Name extends string, Word extends string> {
  /** Name of the suite, and of its JSON. */
  suite: string;
  /** What --help prints. */
  usage: string;
  /** Whole numbers from 1. */
  numbers: Record<Name, { usual: number; quick?: number }>;
  /** Words that choose parts; none: all. */
  words: readonly Word[];
  /** It takes --again. */
  hasAgain?: boolean;
}

/** What a suite was told. */
export interface ReadOptions<Name extends string, Word extends string> {
  /** Its numbers. */
  numbers: Record<Name, number>;
  /** The chosen words, all when none was chosen. */
  words: readonly Word[];
  /** A smaller run. */
  quick: boolean;
  /** Add to an earlier run. */
  add: boolean;
  /** Keep an earlier run but for the chosen words. */
  again: boolean;
  /** Where the JSON goes. */
  out: string;
  /** JSON of an earlier run to compare with; null for none. */
  against: string | null;
}

/**
 * Reads a command line.
 *
 * @returns What was told, or the exit status when there is nothing to run.
 */
export function readOptions<Name extends string, Word extends string>(
  args: string[],
  plan: OptionsPlan<Name, Word>,
): ReadOptions<Name, Word> | number {
  const names = Object.keys(plan.numbers) as Name[];
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        ...Object.fromEntries(names.map((name) => [name, { type: "string" as const }])),
        quick: { type: "boolean", default: false },
        add: { type: "boolean", default: false },
        ...(plan.hasAgain ? { again: { type: "boolean" as const, default: false } } : {}),
        out: { type: "string" },
        against: { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      console.log(plan.usage);
      return 0;
    }
    for (const word of positionals) {
      if ((plan.words as readonly string[]).includes(word)) continue;
      throw new RangeError(
        `Cannot run "${word}", allowed is ${plan.words.join(", ") || "no further word"}`,
      );
    }
    const told = values as Record<string, string | boolean | undefined>;
    const numbers = Object.fromEntries(names.map((name) => {
      const { usual, quick = usual } = plan.numbers[name];
      return [name, wholeNumber(name, told[name] ?? `${values.quick ? quick : usual}`)];
    })) as Record<Name, number>;
    const out = values.out ??
      decodeURIComponent(new URL(`./out/${plan.suite}.json`, import.meta.url).pathname);
    return {
      numbers,
      words: positionals.length === 0 ? plan.words : positionals as Word[],
      quick: values.quick === true,
      add: values.add === true,
      again: told.again === true,
      out: String(out),
      against: values.against === undefined ? null : String(values.against),
    };
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : error}\n${plan.usage}`);
    return 2;
  }
}

function wholeNumber(name: string, text: string | boolean): number {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number > 0) return number;
  throw new RangeError(`--${name} is "${text}", allowed is a whole number from 1`);
}
