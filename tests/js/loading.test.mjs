/** Bundles on a disk and behind a URL: what is checked, fetched, kept and refused. */

import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, test } from "node:test";

import { canonical } from "../../js/florence_edge_js/bundle.js";
import {
  BackendError,
  BundleError,
  BundleNotFoundError,
  Florence2,
} from "../../js/florence_edge_js/index.js";
import { scriptedOrt, writeBundle } from "./scripted_ort.mjs";

const work = mkdtempSync(join(tmpdir(), "js-"));
let made = 0;
const bundle = (change) => writeBundle(join(work, `bundle ${(made += 1)}`), change);
const ort = scriptedOrt({}).ort;
const load = (source, options = {}) => Florence2.load(source, { ort, ...options });

const servers = [];
after(() => {
  rmSync(work, { recursive: true });
  for (const server of servers) server.close().closeAllConnections(); // of tests that failed
});

/**
 * A server of a folder that counts what is asked for; `change` may change what it sends, or with
 * null cut the connection in the middle of it.
 */
async function serving(folder, change = (_, bytes) => bytes) {
  const asked = [];
  const server = createServer((request, response) => {
    const name = decodeURIComponent(request.url).slice(1);
    asked.push(name);
    try {
      const bytes = readFileSync(join(folder, name));
      const sent = change(name, bytes);
      if (sent !== null) return response.end(sent);
      response.writeHead(200, { "content-length": bytes.length });
      response.write(bytes.subarray(0, 3), () => response.destroy());
    } catch {
      response.writeHead(404).end();
    }
  });
  servers.push(server);
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const close = () => new Promise((done) => server.close(done) && server.closeAllConnections());
  return { url: `http://127.0.0.1:${server.address().port}`, asked, close };
}

/** The Cache API, in as far as it is used; node has none. */
function fakeCaches() {
  const kept = new Map();
  return {
    kept,
    open: async () => ({
      match: async (key) => kept.get(key)?.clone(),
      put: async (key, response) => void kept.set(key, response),
      keys: async () => [...kept.keys()].map((url) => ({ url })),
      delete: async (key) => kept.delete(key),
    }),
    delete: async () => kept.size > 0 && (kept.clear(), true),
  };
}

/** Work in a page of `url`, whose browser has a cache. */
async function inBrowser(url, work) {
  globalThis.caches = fakeCaches();
  globalThis.location = new URL(`${url}/page`);
  try {
    await work();
  } finally {
    delete globalThis.caches;
    delete globalThis.location;
  }
}

/** The hashes that a bundle's manifest lists, and those that the browser keeps. */
const listed = (folder) =>
  Object.values(JSON.parse(readFileSync(join(folder, "manifest.json"))).files)
    .map(({ sha256 }) => sha256)
    .sort();
const keptHashes = () =>
  [...caches.kept.keys()].flatMap((key) => key.match(/sha256-(\w+)$/u)?.[1] ?? []).sort();

test("a bundle on a disk is opened by its paths", async () => {
  const { ort: own, state } = scriptedOrt({});
  const model = await Florence2.load(bundle(), { ort: own, threads: 2 });
  assert.ok(state.models.every((each) => typeof each === "string"));
  assert.ok(state.options.every((each) => each.intraOpNumThreads === 2 && !each.externalData));
  assert.equal(model.bundle.model, "scripted");
});

const SPOILT = [
  [(folder) => rmSync(join(folder, "manifest.json")), /is not a bundle: it has no manifest\.json/u],
  [(folder) => writeFileSync(join(folder, "manifest.json"), "{"), /manifest\.json cannot be read/u],
  [
    (folder) => appendFileSync(join(folder, "weights.bin"), "!"),
    /weights\.bin has 8 bytes, expected 7/u,
  ],
  [
    (folder) => writeFileSync(join(folder, "weights.bin"), "WEIGHTS"),
    /weights\.bin is not what was exported/u,
  ],
  [
    (folder) => writeFileSync(join(folder, "decoder.onnx"), "DECODER"),
    /decoder\.onnx is not what was exported/u,
  ],
  [(folder) => rmSync(join(folder, "decoder.onnx")), /lacks decoder\.onnx/u],
  [
    (folder) => {
      const path = join(folder, "manifest.json");
      writeFileSync(path, readFileSync(path, "utf8").replace('"num_beams": 1', '"num_beams": 2'));
    },
    /changed since the export: it does not fit its digest/u,
  ],
];

test("a spoilt bundle is refused by its file", async () => {
  for (const [spoil, message] of SPOILT) {
    const folder = bundle();
    spoil(folder);
    await assert.rejects(
      load(folder),
      (error) => error instanceof BundleError && message.test(error.message),
      String(message),
    );
  }
  await assert.rejects(load(join(work, "nowhere")), BundleNotFoundError);
});

const STRANGE = [
  [
    (manifest) => (manifest.contract = 2),
    /exported for contract 2, this runtime speaks 3/u,
    BundleError,
  ],
  [
    (manifest) => (manifest.size.decoder_heads = 3),
    /decoder_heads must divide d_model/u,
    BundleError,
  ],
  [
    (manifest) => (manifest.size.d_model = 1e9),
    /d_model is 1000000000, expected 1 to/u,
    BundleError,
  ],
  [(manifest) => delete manifest.files["weights.bin"], /does not list weights\.bin/u, BundleError],
  [
    (manifest) => (manifest.precision = "fp8"),
    /precision is "fp8", expected one of fp32/u,
    BundleError,
  ],
  [
    (manifest) => (manifest.generation.eos_token_id = [99999]),
    /eos_token_id is 99999/u,
    BundleError,
  ],
  [
    (manifest) => (manifest.target = "tensorrt"),
    /was made for tensorrt and does not run on cpu/u,
    BackendError,
  ],
];

test("a manifest of another kind is refused", async () => {
  for (const [change, message, Kind] of STRANGE) {
    await assert.rejects(
      load(bundle(change)),
      (error) => error instanceof Kind && message.test(error.message),
      String(message),
    );
  }
});

test("the digest is that of Python's canonical JSON", () => {
  const text =
    '{"b": 1.0, "a": [1e-5, true, null, {"ü": "\\u00e9\\n\\"x"}], "digest": "d", "n": {"digest": 1}}';
  assert.equal(
    canonical(text, "digest"),
    '{"a":[1e-5,true,null,{"\\u00fc":"\\u00e9\\n\\"x"}],"b":1.0,"n":{"digest":1}}',
  );
});

test("an old or strange onnxruntime is refused", async () => {
  const old = { ...ort, env: { versions: { common: "1.19.2" } } };
  await assert.rejects(
    load(bundle(), { ort: old }),
    (error) =>
      error instanceof BackendError && /1\.19\.2, expected 1\.24 or newer/u.test(error.message),
  );
});

test("a bundle is downloaded with progress, and only what is needed", async () => {
  const { url, asked, close } = await serving(bundle());
  const told = [];
  const { ort: own, state } = scriptedOrt({});
  await Florence2.load(url, { ort: own, on_progress: (progress) => told.push(progress) });
  assert.deepEqual([...asked].sort(), [
    "decoder.onnx",
    "manifest.json",
    "text_encoder.onnx",
    "tokenizer.json",
    "vision_encoder.onnx",
    "weights.bin",
  ]);
  assert.equal(told.at(-1).loaded, told.at(-1).total);
  assert.ok(
    state.options.every(
      (each) => new TextDecoder().decode(each.externalData[0].data) === "weights",
    ),
  );
  await close();
});

test("the browser's cache serves a second load, and a changed entry is fetched again", async () => {
  const { url, asked, close } = await serving(bundle());
  await inBrowser(url, async () => {
    await load(url);
    asked.length = 0;
    await load(url);
    assert.deepEqual(asked, ["manifest.json"]); // it may have changed
    const key = [...caches.kept.keys()].find((each) => each.includes("sha256-"));
    caches.kept.set(key, new Response("spoilt"));
    asked.length = 0;
    await load(url);
    assert.equal(asked.length, 2);
    await close();
    await load(url); // offline
    await assert.rejects(
      load(url, { cache: false }),
      (error) => error instanceof BundleError && /cannot be fetched/u.test(error.message),
    );
  });
});

test("a manifest is kept when its bundle was read, not before", async () => {
  let portal = false; // of a hotel, say: it answers every address with its own page
  const { url, close } = await serving(bundle(), (_, bytes) => (portal ? "<html>Log in" : bytes));
  await inBrowser(url, async () => {
    await load(url);
    portal = true;
    await assert.rejects(load(url), /manifest\.json cannot be read/u);
    await close();
    await load(url); // offline
  });
});

test("an older version of a bundle is kept until the new one is there, and no longer", async () => {
  const [one, other] = [bundle(), bundle()];
  let cut = () => false;
  const { url, close } = await serving(work, (name, bytes) => (cut(name) ? null : bytes));
  const loadFrom = (folder) => load(`${url}/${basename(folder)}`);
  const loadAll = async () => {
    for (const folder of [one, other]) await loadFrom(folder);
  };
  await inBrowser(url, async () => {
    await loadAll();
    assert.deepEqual(keptHashes(), listed(one));
    const first = listed(one);

    writeBundle(one, undefined, "newer weights");
    cut = (name) => name.endsWith("weights.bin");
    await assert.rejects(loadAll(), BundleError);
    cut = () => true;
    await loadAll(); // offline, the older version still answers
    assert.deepEqual(keptHashes(), first);

    cut = () => false;
    await loadFrom(one);
    const both = new Set([...listed(one), ...listed(other)]);
    assert.equal(both.size, first.length + 1); // the other bundle still has the older weights
    assert.deepEqual(keptHashes(), [...both].sort());

    writeBundle(other, undefined, "newer weights");
    await loadAll();
    assert.deepEqual(keptHashes(), listed(one));
    await close();
    await loadAll(); // offline
  });
});

test("a connection that ends within a file is a BundleError", async () => {
  const { url, close } = await serving(bundle(), (name, bytes) =>
    name === "weights.bin" ? null : bytes,
  );
  await assert.rejects(
    load(url),
    (error) =>
      error instanceof BundleError && /weights\.bin cannot be fetched/u.test(error.message),
  );
  await close();
});

test("what a server sends is compared with the manifest", async () => {
  for (const [change, message] of [
    [(bytes) => Buffer.from(bytes).fill(0), /is not what was exported/u],
    [(bytes) => bytes.subarray(1), /has 6 bytes, expected 7/u],
    [(bytes) => Buffer.concat([bytes, bytes]), /has more than the 7 bytes/u],
  ]) {
    const { url, close } = await serving(bundle(), (name, bytes) =>
      name === "weights.bin" ? change(bytes) : bytes,
    );
    await assert.rejects(
      load(url),
      (error) => error instanceof BundleError && message.test(error.message),
      String(message),
    );
    await close();
  }
  const { url, close } = await serving(work);
  await assert.rejects(load(`${url}/nothing`), BundleNotFoundError);
  await close();
});

test("a download is ended by its signal", async () => {
  const { url, close } = await serving(bundle());
  const control = new AbortController();
  const on_progress = () => control.abort();
  await assert.rejects(load(url, { signal: control.signal, on_progress }), { name: "AbortError" });
  await close();
});
