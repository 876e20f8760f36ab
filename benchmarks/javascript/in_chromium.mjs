/** node in_chromium.mjs PLAN: systems with onnxruntime-web, in one page; prints JSON. */

import { createReadStream, readFileSync, readdirSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const plan = JSON.parse(process.argv[2]);
const root = fileURLToPath(new URL("../..", import.meta.url));
const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

/** Files of the repository, and under /bundle/ and /files/ the two exports. */
const server = createServer((request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
  const file = path.startsWith("/bundle/")
    ? join(plan.bundle, path.slice(8))
    : path.startsWith("/files/model/")
      ? join(plan.folder, path.slice(13))
      : join(root, path);
  try {
    const { size } = statSync(file);
    response.writeHead(200, {
      "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
      "Content-Length": size,
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Embedder-Policy": "require-corp",
    });
    createReadStream(file).pipe(response);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const url = `http://localhost:${server.address().port}`;
const browser = await chromium.launchServer({
  executablePath: plan.chromium,
  args: ["--no-sandbox"],
});
const context = await (await chromium.connect(browser.wsEndpoint())).newContext();
const page = await context.newPage();
page.setDefaultTimeout(0);
page.on("pageerror", (error) => console.error(String(error)));
await page.goto(`${url}/benchmarks/javascript/page.html`);
await page.waitForFunction(() => window.measured);
const asked = { ...plan, bundle: `${url}/bundle/`, folder: "/files/model" };
const found = await page.evaluate((wanted) => window.measured(wanted), asked);
console.log(JSON.stringify({ ...found, peak_bytes: largestRenderer(browser.process().pid) }));
await browser.close();
server.close();
process.exit(0);

/** The most memory that a process of this browser had (the page's): VmHWM of Linux. */
function largestRenderer(root) {
  const fields = (pid) =>
    Object.fromEntries(
      readFileSync(`/proc/${pid}/status`, "utf8")
        .split("\n")
        .map((line) => line.split(":\t")),
    );
  const processes = readdirSync("/proc")
    .filter((name) => /^\d+$/u.test(name))
    .flatMap((pid) => {
      try {
        const { PPid, VmHWM } = fields(pid);
        return [{ pid: Number(pid), parent: Number(PPid), peak: parseInt(VmHWM, 10) * 1024 || 0 }];
      } catch {
        return []; // it is gone
      }
    });
  const family = new Set([root]);
  for (let size = 0; size !== family.size;) {
    size = family.size;
    for (const { pid, parent } of processes) if (family.has(parent)) family.add(pid);
  }
  return Math.max(...processes.filter(({ pid }) => family.has(pid)).map(({ peak }) => peak));
}
