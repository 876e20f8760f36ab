/**
 * How many pictures of a camera a second examples/browser answers in Chromium; prints JSON.
 *
 *     node camera_pace.mjs '{"chromium", "url", "video", "profile", "task", "beams", "seconds"}'
 */

import { chromium } from "playwright-core";

const plan = JSON.parse(process.argv[2]);
const WARM_UP = 3000; // milliseconds
const browser = await chromium.launchPersistentContext(plan.profile, {
  executablePath: plan.chromium,
  permissions: ["camera"],
  args: [
    "--no-sandbox",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    `--use-file-for-fake-video-capture=${plan.video}`,
  ],
});
const page = await browser.newPage();
await page.goto(plan.url);
await page.waitForFunction(() => document.querySelector("#state").textContent.includes("thread"));
await page.selectOption("#task", plan.task);
await page.selectOption("#beams", String(plan.beams));
await page.click("#camera");
await page.waitForTimeout(WARM_UP);
const found = await page.evaluate(async (seconds) => {
  const shown = [];
  const watch = new MutationObserver(() => shown.push(performance.now()));
  watch.observe(document.querySelector("#seconds"), { childList: true });
  await new Promise((done) => setTimeout(done, 1000 * seconds));
  watch.disconnect();
  const regions = document.querySelectorAll("#regions li").length;
  const words = document.querySelector("#words").textContent;
  const state = document.querySelector("#state").textContent;
  return { answers: shown.length, regions, words, state };
}, plan.seconds);
await browser.close();
console.log(JSON.stringify(found));
