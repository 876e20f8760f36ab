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
// maxRSS would be that of the process that started this one, if it was larger.
const [, kilobytes] = /^VmHWM:\s+(\d+) kB/mu.exec(readFileSync("/proc/self/status", "utf8"));
const peak_bytes = Number(kilobytes) * 1024;
process.stdout.write(JSON.stringify({ ...found, peak_bytes }));
