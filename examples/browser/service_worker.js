/**
 * Makes the page work offline, and isolated where its server sends no headers for that.
 *
 * The page's own files are kept here, those of the bundle by florence-edge itself. A file comes from
 * the network while there is one, so that a new version is seen at once.
 */

const KEPT = "page-1";
const LARGE = /\.wasm$/u; // of a pinned version: asked for once

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const own = new URL(request.url).origin === self.location.origin;
  const ofBundle = request.destination === "" && !/\.(?:m?js|wasm|css)$/u.test(request.url);
  if (request.method === "GET" && own && !ofBundle) event.respondWith(answer(request));
});

async function answer(request) {
  const cache = await caches.open(KEPT);
  const kept = await cache.match(request.url);
  if (kept && LARGE.test(request.url)) return kept;
  try {
    const response = isolated(await fetch(request, { cache: "no-cache" }));
    if (response.ok) await cache.put(request.url, response.clone());
    return response;
  } catch (error) {
    if (kept) return kept;
    throw error;
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
