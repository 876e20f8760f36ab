// Answers questions about pictures with transformers.js in Node.
//
//   node answers.mjs JOB.json > ANSWERS.json
//
// JOB: {folder, ...} as in answering.mjs; `pixels` is a file.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import * as transformers from "@huggingface/transformers";

import { answerAll } from "./answering.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
transformers.env.allowRemoteModels = false;
transformers.env.localModelPath = dirname(job.folder);
const found = await answerAll(transformers, basename(job.folder), job, readFileSync);
const peak_bytes = process.resourceUsage().maxRSS * 1024;
process.stdout.write(JSON.stringify({ ...found, peak_bytes }));
