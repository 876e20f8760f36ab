// Answers questions about pictures with transformers.js in Chromium, on onnxruntime-web's WASM.
//
//   node browse.mjs JOB.json > ANSWERS.json
//
// JOB: {chromium, url, id, ...} as in answering.mjs; `url` serves this folder at /tests/, the model
// at /models/ID/ and pixels. A request to any other host is refused.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ["--no-sandbox", "--disable-gpu"],
});
const page = await browser.newPage();
const others = [];
await page.route("**", (route) => {
  const address = route.request().url();
  if (address.startsWith(job.url) || /^(blob|data):/.test(address)) return route.continue();
  others.push(address);
  return route.abort();
});
await page.goto(`${job.url}/tests/page.html`);
const found = await page.evaluate(async (asked) => {
  const packages = `${asked.url}/tests/node_modules`;
  const transformers = await import(
    `${packages}/@huggingface/transformers/dist/transformers.min.js`
  );
  const { answerAll } = await import(`${asked.url}/tests/answering.mjs`);
  const { env } = transformers;
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = "/models/";
  env.useBrowserCache = false;
  env.backends.onnx.wasm.wasmPaths = `${packages}/onnxruntime-web/dist/`;
  const read = async (name) => (await fetch(`${asked.url}/${name}`)).arrayBuffer();
  return answerAll(transformers, asked.id, asked, read);
}, job);
await browser.close();
process.stdout.write(JSON.stringify({ ...found, others }));
