/**
 * The least that steps of 1 to 4 beams take: ONNX Runtime's part in Chromium, on a bundle's decoder.
 *
 *     node step_floor.mjs --bundle BUNDLE --output RESULT.json
 *         [--model NAME] [--rounds 200] [--threads 1,2] [--capacity 32] [--chromium /usr/bin/chromium]
 *
 * Nothing is searched, no cache is moved: the session runs on the same zeros again and again. Rounds
 * of ten runs take turns; the fastest counts, so that other work of the machine does not.
 */

import { readFileSync } from "node:fs";

import { askPage } from "./chromium.mjs";
import { asked, circumstances, rounded, written } from "./command.mjs";

const BEAMS = [1, 2, 3, 4];
const values = asked(["bundle", "output"], {
  model: "",
  rounds: "200",
  threads: "1,2",
  capacity: "32",
});
const { bundle, chromium } = values;
const [rounds, capacity] = [values.rounds, values.capacity].map(Number);
const manifest = JSON.parse(readFileSync(`${bundle}/manifest.json`, "utf8"));
const result = {
  model: values.model || manifest.model.name,
  precision: manifest.precision,
  ...circumstances(),
  cache_capacity: capacity,
  rows: [],
};
for (const threads of values.threads.split(",").map(Number)) {
  const plan = { bundle, chromium, threads, rounds, capacity, beams: BEAMS };
  const { milliseconds, version } = await askPage("alone.html", plan);
  result.onnxruntime_web = version;
  const least = Object.fromEntries(BEAMS.map((n) => [n, Math.min(...milliseconds[n])]));
  result.rows.push({
    threads,
    milliseconds: Object.fromEntries(BEAMS.map((n) => [n, rounded(least[n])])),
    in_greedy_steps: Object.fromEntries(BEAMS.map((n) => [n, rounded(least[n] / least[1])])),
  });
}
written(values.output, result);
console.log(JSON.stringify(result.rows, null, 1));
process.exit(0);
