/**
 * How fast transformers.js is in each dtype of a folder that florence-export wrote for it.
 *
 *     node dtypes.mjs --folder TRANSFORMERS_JS_FOLDER --output RESULT.json
 *         [--model NAME] [--dtypes fp32,fp16,q8,q4,q4f16] [--rounds 5] [--tokens 40]
 *         [--threads 2] [--chromium /usr/bin/chromium] [--places node,chromium]
 *
 * All are in one process, in turn: a figure is the median over the rounds, in fp32's.
 */

import { basename } from "node:path";

import { asked, circumstances, ran, rounded, written } from "./command.mjs";
import { median } from "./measure.mjs";

const WHAT = ["vision", "greedy"];
const values = asked(["folder", "output"], {
  model: "",
  dtypes: "fp32,fp16,q8,q4,q4f16",
  rounds: "5",
  tokens: "40",
  threads: "2",
  places: "node,chromium",
});
const dtypes = values.dtypes.split(",");
if (dtypes[0] !== "fp32") {
  console.error(`dtypes.mjs: --dtypes ${values.dtypes} must begin with fp32, which others are measured in.`);
  process.exit(2);
}

/** Of each dtype: seconds of the vision encoder and of a step, and how often fp32's. */
function rowsOf(seconds) {
  const medians = (name) => WHAT.map((what) => median(seconds[name][what]));
  const floats = medians("fp32");
  return dtypes.map((dtype) => {
    const [vision, step] = medians(dtype);
    const in_fp32 = { vision: rounded(vision / floats[0]), step: rounded(step / floats[1]) };
    return { dtype, seconds: { vision: rounded(vision), step: rounded(step) }, in_fp32 };
  });
}

const places = values.places.split(",").map((place) => {
  const { seconds, versions } = ran(place, values, { dtypes });
  return [place, { versions, rows: rowsOf(seconds) }];
});
const result = {
  model: values.model || basename(values.folder),
  ...circumstances(),
  threads: Number(values.threads),
  tokens: Number(values.tokens),
  ...Object.fromEntries(places),
};
written(values.output, result);
console.log(JSON.stringify(Object.fromEntries(places), null, 1));
