/**
 * florence-edge beside transformers.js: vision, tokens, memory, in node and in Chromium.
 *
 *     node compare.mjs --bundle BUNDLE --folder TRANSFORMERS_JS_FOLDER --output RESULT.json
 *         [--model NAME] [--rounds 5] [--tokens 40] [--threads 2] [--chromium /usr/bin/chromium]
 *
 * Speed is measured with both in one process, in turn; memory in a process of its own for each.
 */

import { readFileSync } from "node:fs";

import { asked, circumstances, ran, rounded, written } from "./command.mjs";
import { median } from "./measure.mjs";

const SYSTEMS = ["florence-edge", "transformers.js"];
const values = asked(["bundle", "folder", "output"], {
  model: "",
  rounds: "5",
  tokens: "40",
  threads: "2",
  places: "node,chromium",
});

function compared(place) {
  const together = ran(place, values, { systems: SYSTEMS });
  const alone = SYSTEMS.map((name) => ran(place, values, { systems: [name], rounds: 1 }));
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
const places = values.places.split(",");
const result = {
  model: values.model || manifest.model.name,
  precision: manifest.precision,
  ...circumstances(),
  threads: Number(values.threads),
  tokens: Number(values.tokens),
  beams: 3,
  ...Object.fromEntries(places.map((place) => [place, compared(place)])),
};
written(values.output, result);
const ratios = Object.fromEntries(places.map((place) => [place, result[place].ratios]));
console.log(JSON.stringify(ratios, null, 1));
