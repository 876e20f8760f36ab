/** A page of this folder in Chromium, isolated, so that WebAssembly has threads. */

import { createReadStream, readFileSync, readdirSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};


/**
 * What `window.asked` of a page gives for a plan, and the most memory that the page had, in bytes.
 *
 * @param file of this folder; it sets `window.asked`, which takes the plan with addresses for paths
 * @param {{bundle: string, folder?: string, chromium: string}} plan the page reads the bundle under
 *   /bundle/, and an export for transformers.js under /files/model
 */
export async function askPage(file, plan) {
  const server = createServer((request, response) => serve(plan, request, response));
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
  await page.goto(`${url}/benchmarks/javascript/${file}`);
  await page.waitForFunction(() => window.asked);
  const wanted = { ...plan, bundle: `${url}/bundle/`, folder: "/files/model" };
  const found = await page.evaluate((given) => window.asked(given), wanted);
  const peak_bytes = largestRenderer(browser.process().pid);
  await browser.close();
  server.close();
  return { ...found, peak_bytes };
}

/** Files of the repository, and under /bundle/ and /files/ the two exports. */
function serve(plan, request, response) {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
  const file = path.startsWith("/bundle/")
    ? join(plan.bundle, path.slice(8))
    : path.startsWith("/files/model/")
      ? join(plan.folder, path.slice(13))
      : join(ROOT, path);
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
}

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
