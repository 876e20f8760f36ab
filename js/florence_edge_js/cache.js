/**
 * What a browser keeps of bundles, by the hash of each file: nothing is fetched twice, or stale.
 *
 * Manifests are kept by their address, and say which hashes are still needed.
 */

const NAME = "florence-edge";
const BY_HASH = "/.florence-edge/";

/**
 * The browser's cache; one that keeps nothing where there is none (node, plain http, private).
 *
 * @param {boolean} wanted
 * @returns {Promise<{get(key: string): Promise<Uint8Array | null>,
 *   put(key: string, bytes: Uint8Array): Promise<void>,
 *   putManifest(url: string, bytes: Uint8Array): Promise<void>}>}
 */
export async function openCache(wanted) {
  if (!wanted || typeof caches === "undefined") return NOTHING;
  try {
    return new BrowserCache(await caches.open(NAME));
  } catch {
    return NOTHING; // a browser that forbids storage, or one of a private window
  }
}

/** Forget all bundles that this page's origin has kept; true if there were any. */
export async function clearCache() {
  return typeof caches === "undefined" ? false : caches.delete(NAME);
}

const NOTHING = { get: async () => null, put: async () => {}, putManifest: async () => {} };

class BrowserCache {
  #cache;

  constructor(cache) {
    this.#cache = cache;
  }

  async get(key) {
    const response = await this.#cache.match(addressOf(key));
    return response ? new Uint8Array(await response.arrayBuffer()) : null;
  }

  async put(key, bytes) {
    try {
      await this.#cache.put(addressOf(key), new Response(bytes));
    } catch {
      // The quota is used up: the bundle works all the same, and is fetched again the next time.
    }
  }

  /** Keep a manifest, and forget the files that only its older version lists. */
  async putManifest(url, bytes) {
    const dropped = new Set(hashesIn(await this.get(url)));
    const others = (await this.#cache.keys()).map((request) => request.url);
    const manifests = others.filter((other) => other !== url && !other.includes(BY_HASH));
    for (const other of await Promise.all(manifests.map((each) => this.get(each)))) {
      hashesIn(other).forEach((hash) => dropped.delete(hash));
    }
    hashesIn(bytes).forEach((hash) => dropped.delete(hash));
    for (const hash of dropped) await this.#cache.delete(addressOf(`sha256-${hash}`));
    await this.put(url, bytes); // last: what was dropped may have taken its place
  }
}

/** The hashes that a manifest lists, if there is one. */
function hashesIn(bytes) {
  if (bytes === null) return [];
  try {
    const { files } = JSON.parse(new TextDecoder().decode(bytes));
    return Object.values(files).map(({ sha256 }) => sha256);
  } catch {
    return []; // kept by a version of this package that kept whatever came
  }
}

/** A cache is asked by addresses; those of hashes are never fetched. */
function addressOf(key) {
  return key.includes("://") ? key : new URL(BY_HASH + key, location.origin).href;
}
