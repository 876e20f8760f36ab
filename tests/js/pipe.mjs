/** Answers lines {does, given} of JSON on stdin with a line of JSON each: see functions.mjs. */

import { createInterface } from "node:readline";

import { FUNCTIONS } from "./functions.mjs";

for await (const line of createInterface({ input: process.stdin })) {
  const { does, given } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await FUNCTIONS[does](given))}\n`);
}
