/** node in_node.mjs PLAN: systems with onnxruntime-node, in this process; prints JSON. */

import * as transformers from "@huggingface/transformers";
import ort from "onnxruntime-node";

import { Florence2 } from "../../js/florence_edge_js/index.js";
import { measured } from "./measure.mjs";
import { systemsOf } from "./systems.mjs";

const plan = JSON.parse(process.argv[2]);
const systems = systemsOf(plan, { Florence2, ort, transformers });
for (const system of systems) await system.load();
const seconds = await measured(systems, plan);
const peak = process.resourceUsage().maxRSS * 1024;
console.log(
  JSON.stringify({
    seconds,
    peak_bytes: peak,
    versions: {
      onnxruntime: ort.env.versions.common,
      transformers: transformers.env.version,
    },
  }),
);
process.exit(0);
