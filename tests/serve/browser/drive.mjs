/**
 * Drives the page in a real Chromium and writes down what it shows; the tests judge it in Python.
 *
 *     node drive.mjs PLAN.json OBSERVED.json
 *
 * PLAN: {chromium, args, url, hosts, timeout, screenshots, scenarios: {name: {scenario, ...what it
 * takes}}}. OBSERVED gets one entry a scenario; screenshots lie beside it, of failures in any case.
 */

import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { chromium } from "playwright-core";

import { SCENARIOS } from "./scenarios.mjs";

const [planFile, observedFile] = process.argv.slice(2);
const out = dirname(observedFile);
const plan = JSON.parse(await readFile(planFile, "utf8"));
const browser = await chromium.launch({ executablePath: plan.chromium, args: plan.args });

/** A page of its own, and what went wrong in it: console errors, CSP, requests to other hosts. */
async function openPage(options = {}) {
  const context = await browser.newContext({ acceptDownloads: true, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (line) => {
    if (["error", "warning"].includes(line.type())) complaints.push(line.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    const { protocol, host } = new URL(request.url());
    const own = ["blob:", "data:"].includes(protocol) || plan.hosts.includes(host);
    if (!own) complaints.push(`a request left the server: ${request.url()}`);
  });
  page.setDefaultTimeout(plan.timeout);
  return { page, complaints };
}

/** The server's address, by another name of the host where a scenario wants one. */
function addressOf(host) {
  const address = new URL(plan.url);
  if (host) address.hostname = host;
  return address.href;
}

/** What a promise gives, or a failure where it takes far too long. */
function withinLimit(promise, name) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`${name} took too long`)), 3 * plan.timeout);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Run one scenario in a page of its own; a failure is part of what was observed. */
async function observe(name, wants) {
  const begun = Date.now();
  const take = (page, picture) => page.screenshot({ path: join(out, `${picture}.png`) });
  const shoot = plan.screenshots ? take : async () => {};
  const { page, complaints } = await openPage(wants.context);
  let seen;
  try {
    const all = { ...wants, url: addressOf(wants.host), shoot, out };
    seen = await withinLimit(SCENARIOS[wants.scenario](page, all), wants.scenario);
  } catch (error) {
    seen = { failure: `${error.message}\n${error.stack}` };
    await take(page, `${name}-failed`).catch(() => {});
  }
  await page.context().close();
  return { ...seen, complaints, seconds: (Date.now() - begun) / 1000 };
}

const observed = {};
try {
  for (const [name, wants] of Object.entries(plan.scenarios)) {
    observed[name] = await observe(name, wants);
  }
} finally {
  await writeFile(observedFile, JSON.stringify(observed, null, 1));
}
await browser.close();
