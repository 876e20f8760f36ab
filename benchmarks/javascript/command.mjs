/** What the programs of this folder have in common: arguments, programs they start, their results. */

import { execFileSync } from "node:child_process";
import { renameSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/**
 * The arguments of the command line; without one that is needed the program ends.
 *
 * @param {string[]} needed
 * @param {Record<string, string>} defaults of the others; all may be given --chromium
 * @returns {Record<string, string>}
 */
export function asked(needed, defaults) {
  const all = { chromium: "/usr/bin/chromium", ...defaults };
  const options = Object.fromEntries([
    ...needed.map((name) => [name, { type: "string" }]),
    ...Object.entries(all).map(([name, value]) => [name, { type: "string", default: value }]),
  ]);
  const { values } = parseArgs({ options });
  const missing = needed.find((name) => !values[name]);
  if (missing) {
    console.error(`${basename(process.argv[1])}: --${missing} is missing.`);
    process.exit(2);
  }
  return values;
}

/** What in_node.mjs or in_chromium.mjs gives for the arguments, as a plan, and `more` of it. */
export function ran(place, { bundle, folder, chromium, rounds, tokens, threads }, more) {
  const program = fileURLToPath(new URL(`in_${place}.mjs`, import.meta.url));
  const plan = {
    bundle,
    folder: folder.replace(/\/$/u, ""),
    chromium,
    rounds: Number(rounds),
    tokens: Number(tokens),
    threads: Number(threads),
    ...more,
  };
  const said = execFileSync(process.execPath, [program, JSON.stringify(plan)], {
    maxBuffer: 1 << 26,
  });
  return JSON.parse(said.toString().trim().split("\n").at(-1));
}

export const rounded = (value) => Number(value.toPrecision(4));

/** The day and the machine. */
export function circumstances() {
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: { processor: cpus()[0].model, cores: cpus().length, node: process.version },
  };
}

/** Put a result where it belongs, whole. */
export function written(path, result) {
  writeFileSync(`${path}.new`, `${JSON.stringify(result, null, 1)}\n`);
  renameSync(`${path}.new`, path);
}
