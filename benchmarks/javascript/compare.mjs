/**
 * florence-edge beside transformers.js: vision, tokens, memory, in node and in Chromium.
 *
 *     node compare.mjs --bundle BUNDLE --folder TRANSFORMERS_JS_FOLDER --output RESULT.json
 *         [--model NAME] [--rounds 5] [--tokens 40] [--threads 2] [--chromium /usr/bin/chromium]
 *
 * Speed is measured with both in one process, in turn; memory in a process of its own for each.
 */

import { execFileSync } from "node:child_process";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { median } from "./measure.mjs";

const SYSTEMS = ["florence-edge", "transformers.js"];
const { values } = parseArgs({
  options: {
    bundle: { type: "string" },
    folder: { type: "string" },
    output: { type: "string" },
    model: { type: "string", default: "" },
    rounds: { type: "string", default: "5" },
    tokens: { type: "string", default: "40" },
    threads: { type: "string", default: "2" },
    chromium: { type: "string", default: "/usr/bin/chromium" },
    places: { type: "string", default: "node,chromium" },
  },
});
for (const name of ["bundle", "folder", "output"]) {
  if (!values[name]) {
    console.error(`compare.mjs: --${name} is missing.`);
    process.exit(2);
  }
}

function ran(place, plan) {
  const program = fileURLToPath(new URL(`in_${place}.mjs`, import.meta.url));
  const said = execFileSync(process.execPath, [program, JSON.stringify(plan)], {
    maxBuffer: 1 << 26,
  });
  return JSON.parse(said.toString().trim().split("\n").at(-1));
}

const rounded = (value) => Number(value.toPrecision(4));

function compared(place) {
  const { bundle, folder, chromium } = values;
  const numbers = Object.fromEntries(
    ["rounds", "tokens", "threads"].map((name) => [name, Number(values[name])]),
  );
  const plan = { bundle, folder: folder.replace(/\/$/u, ""), chromium, ...numbers };
  const together = ran(place, { ...plan, systems: SYSTEMS });
  const alone = SYSTEMS.map((name) => ran(place, { ...plan, systems: [name], rounds: 1 }));
  const seconds = Object.fromEntries(
    SYSTEMS.map((name) => [
      name,
      Object.fromEntries(
        Object.entries(together.seconds[name])
          .filter(([, all]) => all.length > 0)
          .map(([what, all]) => [what, { median: rounded(median(all)), all: all.map(rounded) }]),
      ),
    ]),
  );
  const [our, their] = SYSTEMS.map((name) => seconds[name]);
  return {
    versions: together.versions,
    seconds,
    peak_bytes: Object.fromEntries(SYSTEMS.map((name, at) => [name, alone[at].peak_bytes])),
    ratios: {
      vision: rounded(our.vision.median / their.vision.median),
      greedy_step: rounded(our.greedy.median / their.greedy.median),
      beams_in_greedy_steps: rounded(our.beams.median / our.greedy.median),
      peak_bytes: rounded(alone[0].peak_bytes / alone[1].peak_bytes),
    },
  };
}

const manifest = JSON.parse(readFileSync(`${values.bundle}/manifest.json`, "utf8"));
const result = {
  model: values.model || manifest.model.name,
  precision: manifest.precision,
  date: new Date().toISOString().slice(0, 10),
  machine: { processor: cpus()[0].model, cores: cpus().length, node: process.version },
  threads: Number(values.threads),
  tokens: Number(values.tokens),
  beams: 3,
  ...Object.fromEntries(values.places.split(",").map((place) => [place, compared(place)])),
};
writeFileSync(`${values.output}.new`, `${JSON.stringify(result, null, 1)}\n`);
renameSync(`${values.output}.new`, values.output);
console.log(
  JSON.stringify(
    Object.fromEntries(values.places.split(",").map((place) => [place, result[place].ratios])),
    null,
    1,
  ),
);
