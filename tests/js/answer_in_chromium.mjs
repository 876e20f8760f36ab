/**
 * node answer_in_chromium.mjs PLAN.json OBSERVED.json: `answersOf` in a page, with onnxruntime-web.
 *
 * PLAN has {chromium, flags, url}, too; the page at the address is answers.html.
 */

import { readFile, writeFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const [planFile, observedFile] = process.argv.slice(2);
const { chromium: executablePath, flags = [], url, ...plan } = JSON.parse(
  await readFile(planFile, "utf8"),
);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...flags] });
const page = await browser.newPage();
page.setDefaultTimeout(0);
await page.goto(url);
await page.waitForFunction(() => window.answers);
const observed = await page.evaluate((asked) => window.answers(asked), plan);
await browser.close();
await writeFile(observedFile, JSON.stringify(observed));
