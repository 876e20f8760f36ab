/** A bundle behind a URL: fetched with progress, compared with its hashes, kept by the browser. */

import { NEEDED, sha256 } from "./bundle.js";
import { openCache } from "./cache.js";
import { BundleError, BundleNotFoundError } from "./errors.js";

/**
 * A folder on a server.
 *
 * @typedef {{file: string, loaded: number, total: number}} Progress bytes of all files together;
 *   `file` is the one that arrives
 */
export class WebFolder {
  #url;
  #cache;
  #verify;
  #signal;
  #progress;
  #manifest;

  /**
   * @param {URL} url of the folder, with a slash at its end
   * @param {{cache: boolean, verify: boolean, signal?: AbortSignal,
   *   on_progress?: (progress: Progress) => void}} wanted
   */
  static async open(url, wanted) {
    return new WebFolder(url, await openCache(wanted.cache), wanted);
  }

  constructor(url, cache, { verify, signal, on_progress }) {
    this.#url = url;
    this.#cache = cache;
    this.#verify = verify;
    this.#signal = signal;
    this.#progress = new Total(on_progress ?? (() => {}));
  }

  get name() {
    return this.#url.href.replace(/\/$/u, "");
  }

  /** The manifest as it is now; offline, as it was the last time. */
  async readManifest(name, most) {
    const url = new URL(name, this.#url).href;
    let bytes;
    try {
      bytes = await this.#fetch(url, most, () => {}, { cache: "no-cache" });
    } catch (error) {
      const kept = error instanceof BundleNotFoundError ? null : await this.#cache.get(url);
      if (kept === null || this.#signal?.aborted) throw error;
      bytes = kept;
    }
    this.#manifest = { url, bytes };
    try {
      this.#progress.expect(JSON.parse(new TextDecoder().decode(bytes)).files);
    } catch {
      // `Bundle.load` says what is wrong with it.
    }
    return bytes;
  }

  /**
   * A file's bytes, from the browser's cache or the server; they are those of the manifest.
   *
   * @param {{bytes: number, sha256: string}} stored what the manifest says of it
   */
  async read(name, stored) {
    const key = `sha256-${stored.sha256}`;
    const kept = await this.#cache.get(key);
    if (kept !== null && (await this.#isIntact(kept, stored))) {
      this.#progress.add(name, kept.length);
      return kept;
    }
    const url = new URL(name, this.#url).href;
    const bytes = await this.#fetch(url, stored.bytes, (added) => this.#progress.add(name, added));
    if (bytes.length !== stored.bytes) {
      throw new BundleError(
        `${url} has ${bytes.length} bytes, expected ${stored.bytes}: it was changed or cut short. ` +
          "Upload the bundle again, or load it again.",
      );
    }
    if (!(await this.#isIntact(bytes, stored))) {
      throw new BundleError(
        `${url} is not what was exported: its content was changed. Upload the bundle again, or ` +
          "export it again.",
      );
    }
    await this.#cache.put(key, bytes);
    return bytes;
  }

  /** What opens a file: its bytes. */
  open(name, stored) {
    return this.read(name, stored);
  }

  /** Keep the manifest for offline use; called when the whole bundle is there and was accepted. */
  async keep() {
    await this.#cache.putManifest(this.#manifest.url, this.#manifest.bytes);
  }

  async #isIntact(bytes, stored) {
    if (bytes.length !== stored.bytes) return false;
    if (!this.#verify) return true;
    const found = await sha256(bytes);
    if (found === null) {
      throw new BundleError(
        "A page over plain http has no hashes to compare the bundle with. Serve it over https or " +
          "from localhost, or pass {verify: false}.",
      );
    }
    return found === stored.sha256;
  }

  async #fetch(url, most, onBytes, init = {}) {
    const online = (work) => connected(url, this.#signal, work);
    const response = await online(() => fetch(url, { signal: this.#signal, ...init }));
    if (!response.ok) {
      const Kind = response.status === 404 ? BundleNotFoundError : BundleError;
      throw new Kind(
        `${url} answers with status ${response.status}, expected a file of a bundle. Give the ` +
          "address of the folder that florence-export wrote.",
      );
    }
    return received(chunksOf(response.body, online), url, most, onBytes);
  }
}

/** What `work` gets of the network; a connection that fails or ends is a BundleError. */
async function connected(url, signal, work) {
  try {
    return await work();
  } catch (error) {
    signal?.throwIfAborted();
    throw new BundleError(
      `${url} cannot be fetched: ${error.message}. Look at the address, the network, and whether ` +
        "the server allows this page (Access-Control-Allow-Origin).",
      { cause: error },
    );
  }
}

/** All bytes of a file's chunks, at most `most` of them. */
async function received(chunks, url, most, onBytes) {
  let bytes = new Uint8Array(most);
  let length = 0;
  for await (const chunk of chunks) {
    if (length + chunk.length > most) {
      throw new BundleError(
        `${url} has more than the ${most} bytes that were expected: it was changed, or is ` +
          "no bundle. Upload the bundle again.",
      );
    }
    bytes.set(chunk, length);
    length += chunk.length;
    onBytes(chunk.length);
  }
  if (length < most) bytes = bytes.slice(0, length);
  return bytes;
}

async function* chunksOf(stream, online) {
  const reader = stream.getReader(); // Safari's streams do not iterate
  try {
    for (;;) {
      const { done, value } = await online(() => reader.read());
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {}); // of a stream that broke: its error was thrown already
  }
}

/** Adds up the bytes of the files that are needed. */
class Total {
  #told;
  #loaded = 0;
  #total = 0;

  constructor(told) {
    this.#told = told;
  }

  expect(files) {
    this.#total = NEEDED.reduce((sum, name) => sum + (files[name]?.bytes ?? 0), 0);
  }

  add(file, bytes) {
    this.#loaded += bytes;
    this.#told({ file, loaded: this.#loaded, total: this.#total });
  }
}
