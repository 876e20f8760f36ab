/** The cases that the Python runtime has written (cases.py), one test a file. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { FUNCTIONS } from "./functions.mjs";

const folder = process.env.FLORENCE_EDGE_CASES;

/** Equal as JSON; numbers may lie `within` apart, relative to their size. */
function assertEqual(found, expected, within) {
  if (typeof expected === "number" && typeof found === "number") {
    const apart = Math.abs(found - expected);
    assert.ok(apart <= within * Math.max(1, Math.abs(expected)), `${found} is not ${expected}`);
  } else if (expected !== null && typeof expected === "object") {
    assert.equal(typeof found, "object");
    assert.deepEqual(Object.keys(found).sort(), Object.keys(expected).sort());
    for (const key of Object.keys(expected)) assertEqual(found[key], expected[key], within);
  } else {
    assert.deepEqual(found, expected);
  }
}

if (!folder) {
  test("the cases of the Python runtime", { skip: "pytest tests/js makes them" }, () => {});
} else {
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".json"))) {
    test(`${file} is as in Python`, async () => {
      const cases = JSON.parse(readFileSync(join(folder, file), "utf8"));
      assert.ok(cases.length > 0);
      for (const { does, given, expected, within } of cases) {
        const found = JSON.parse(JSON.stringify(await FUNCTIONS[does](given)));
        try {
          assertEqual(found, expected, within);
        } catch (error) {
          const { tables, log_sum_exp, rgb, ...shown } = given;
          error.message += `\n${does} of ${JSON.stringify(shown).slice(0, 1500)}\ngives ${JSON.stringify(found)}\nexpected ${JSON.stringify(expected)}`;
          throw error;
        }
      }
    });
  }
}
