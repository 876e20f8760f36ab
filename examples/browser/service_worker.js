/**
 * Makes the page work offline, and isolated where its server sends no headers for that.
 *
 * The page's own files are kept here, those of the bundle by florence-edge itself. A file comes from
 * the network while there is one, so that a new version is seen at once; only the engine, megabytes
 * of WebAssembly, is asked for once a version of onnxruntime-web.
 */

const PAGE = "florence-edge-page-1";
const ENGINE = "florence-edge-engine-"; // and the version
const ENGINE_PACKAGE = "node_modules/onnxruntime-web/package.json";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  const ofBundle = request.destination === "" && !/\.(?:m?js|wasm|css)$/u.test(pathname);
  if (request.method !== "GET" || origin !== self.location.origin || ofBundle) return;
  event.respondWith(pathname.endsWith(".wasm") ? engineFile(request) : newest(request));
});

/** A file of the page: what the server has; offline, what it had the last time. */
async function newest(request) {
  const cache = await caches.open(PAGE);
  let response;
  try {
    response = isolated(await fetch(request, { cache: "no-cache" }));
  } catch (error) {
    const kept = await cache.match(request);
    if (kept) return kept;
    throw error;
  }
  await keep(cache, request, response);
  return response;
}

/** A file of the engine as its version has it; those of other versions are forgotten. */
async function engineFile(request) {
  const described = await newest(new Request(ENGINE_PACKAGE));
  if (!described.ok) return newest(request); // this server leaves package.json out
  const name = ENGINE + (await described.json()).version;
  const cache = await caches.open(name);
  const kept = await cache.match(request);
  if (kept) return kept;
  const response = isolated(await fetch(request, { cache: "no-cache" }));
  await keep(cache, request, response);
  for (const other of await caches.keys()) {
    if (other.startsWith(ENGINE) && other !== name) await caches.delete(other);
  }
  return response;
}

async function keep(cache, request, response) {
  if (!response.ok) return;
  try {
    await cache.put(request, response.clone());
  } catch {
    // The browser's quota is used up: the page works all the same, but not offline.
  }
}

/** A response with the headers that give a page threads (SharedArrayBuffer). */
function isolated(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  const { status, statusText, body } = response;
  return new Response(body, { status, statusText, headers });
}
