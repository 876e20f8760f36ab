/** node answer_in_node.mjs PLAN.json OBSERVED.json: `answersOf` with onnxruntime-node. */

import { readFile, writeFile } from "node:fs/promises";
import ort from "onnxruntime-node";

import { Florence2 } from "../../js/florence_edge_js/index.js";
import { answersOf } from "./answers.mjs";

const [planFile, observedFile] = process.argv.slice(2);
const observed = await answersOf(Florence2, ort, JSON.parse(await readFile(planFile, "utf8")));
await writeFile(observedFile, JSON.stringify(observed));
