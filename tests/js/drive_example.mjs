/**
 * Drives examples/browser in a real Chromium and prints what it shows, as JSON; Python judges it.
 *
 *     node drive_example.mjs '{"chromium", "url", "picture", "video", "out", "profile", "engine"}'
 *
 * `engine` is the package.json of the site's onnxruntime-web, which gets another version on the way.
 */

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";

const plan = JSON.parse(process.argv[2]);
const LIMIT = 60_000;

const browser = await chromium.launchPersistentContext(plan.profile, {
  executablePath: plan.chromium,
  viewport: { width: 1180, height: 760 },
  permissions: ["camera"],
  args: [
    "--no-sandbox",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    `--use-file-for-fake-video-capture=${plan.video}`,
  ],
});
const page = await browser.newPage();
page.setDefaultTimeout(LIMIT);
const complaints = [];
page.on("console", (line) => {
  if (["error", "warning"].includes(line.type())) complaints.push(line.text());
});
page.on("pageerror", (error) => complaints.push(String(error)));
page.on("request", (request) => {
  const { protocol, host } = new URL(request.url());
  if (!["blob:", "data:"].includes(protocol) && host !== new URL(plan.url).host) {
    complaints.push(`a request left the server: ${request.url()}`);
  }
});
const shoot = (name) => page.screenshot({ path: join(plan.out, `${name}.png`) });

/** Wait for the next answer's seconds. */
async function answered(act) {
  await page.evaluate(() => (document.querySelector("#seconds").textContent = ""));
  await act();
  await page.waitForFunction(() => document.querySelector("#seconds").textContent !== "");
  return page.evaluate(() => ({
    words: document.querySelector("#words").textContent,
    regions: [...document.querySelectorAll("#regions li")].map((row) => ({
      label: row.querySelector("span").textContent,
      score: Number(row.querySelector("b").textContent),
      colour: getComputedStyle(row.querySelector("i")).backgroundColor,
    })),
    overlay: document.querySelector("#overlay").toDataURL(),
    seconds: document.querySelector("#seconds").textContent,
  }));
}

async function ready(of = page) {
  await of.waitForFunction(() => document.querySelector("#state").textContent.includes("thread"));
  return of.textContent("#state");
}

/** A picture dropped on the page, as a visitor's mouse does it. */
async function drop(file) {
  const content = (await readFile(file)).toString("base64");
  const transfer = await page.evaluateHandle((base64) => {
    const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "scene.png", { type: "image/png" }));
    return data;
  }, content);
  await page.dispatchEvent("#stage", "drop", { dataTransfer: transfer });
}

/** What a page without a service worker shows: its browser blocks storage. */
async function blockedState() {
  const blocked = await browser.newPage();
  await blocked.addInitScript(() => {
    navigator.serviceWorker.register = () =>
      Promise.reject(new DOMException("The user denied permission.", "SecurityError"));
  });
  await blocked.goto(plan.url);
  const state = await ready(blocked);
  await blocked.close();
  return state;
}

/** The engine's files that the browser has kept, by the name of the cache. */
async function keptEngines() {
  const kept = await page.evaluate(async () => {
    const names = (await caches.keys()).filter((name) => name.includes("engine"));
    const filesOf = async (name) => (await (await caches.open(name)).keys()).map(({ url }) => url);
    return Promise.all(names.map(async (name) => [name, await filesOf(name)]));
  });
  const fileOf = (url) => url.split("/").at(-1);
  return Object.fromEntries(kept.map(([name, urls]) => [name, urls.map(fileOf)]));
}

/** A picture whose first question is stopped, and another asked, while it is being looked at. */
async function dropStopAndAsk(task) {
  const asked = page.evaluate(async (other) => {
    const stop = document.querySelector("#stop");
    await new Promise((shown) => {
      new MutationObserver(() => !stop.hidden && shown()).observe(stop, { attributes: true });
    });
    stop.click();
    const select = document.querySelector("#task");
    select.value = other;
    select.dispatchEvent(new Event("change"));
  }, task);
  await drop(plan.picture);
  await asked;
}

const seen = {};
try {
  seen.blockedState = await blockedState();
  await page.goto(plan.url);
  seen.state = await ready();
  await shoot("empty");
  seen.dropped = await answered(() => drop(plan.picture));
  await shoot("dropped");
  seen.caption = await answered(() => page.selectOption("#task", "CAPTION"));
  await answered(() => page.selectOption("#task", "OD"));
  seen.stopped = await answered(() => dropStopAndAsk("CAPTION"));
  await page.selectOption("#task", "REGION_TO_CATEGORY");
  const box = await page.locator("#overlay").boundingBox();
  const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
  seen.category = await answered(async () => {
    await page.mouse.move(...at(plan.region.slice(0, 2)));
    await page.mouse.down();
    await page.mouse.move(...at(plan.region.slice(2)), { steps: 4 });
    await page.mouse.up();
  });
  await shoot("region");

  // The engine is updated on the server.
  const described = JSON.parse(await readFile(plan.engine, "utf8"));
  seen.engines = [await keptEngines()];
  await writeFile(plan.engine, JSON.stringify({ ...described, version: "99.0.0" }));
  await page.reload();
  await ready();
  seen.engines.push(await keptEngines());

  // Offline: the same page again, from what the browser has kept.
  await page.request.get(`${plan.url}stop`).catch(() => {});
  await page.reload();
  seen.offlineState = await ready();
  seen.offline = await answered(() => page.setInputFiles("#file", plan.picture));

  await page.click("#another");
  await page.selectOption("#task", "OD");
  await page.selectOption("#beams", "1");
  seen.camera = await answered(() => page.click("#camera"));
  await page.waitForTimeout(8000);
  seen.pace = Number(await page.evaluate(() => document.body.dataset.pace));
  await shoot("camera");
} catch (error) {
  seen.failure = `${error.message}\n${error.stack}`;
  seen.error = await page.textContent("#error").catch(() => "");
  await shoot("failed").catch(() => {});
}
seen.complaints = complaints;
await browser.close();
console.log(JSON.stringify(seen));
