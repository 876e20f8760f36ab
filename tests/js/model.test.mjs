/** Florence2 over a scripted ONNX Runtime: lists, streams, ends, closing, and what is refused. */

import assert from "node:assert/strict";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import {
  BackendError,
  Florence2,
  ImageError,
  RelativeBox,
  RequestError,
} from "../../js/florence_edge_js/index.js";
import { picture, scriptedOrt, writeBundle } from "./scripted_ort.mjs";

// Token 339 is "heart", 313 " and"; 1434 + n is <loc_n>.
const LOC = (bin) => 1434 + bin;
const chain = (...tokens) =>
  Object.fromEntries(tokens.map((token, at) => [token, tokens[at + 1] ?? 2]));
const SCRIPTS = {
  7: chain(0, 339, LOC(100), LOC(200), LOC(300), LOC(400)),
  8: chain(0, 339, 313),
  9: { 0: 313, 313: 313 }, // never ends by itself
};
const folder = writeBundle(join(mkdtempSync(join(tmpdir(), "js-")), "bundle"));

async function opened(told, options = {}) {
  const { ort, state } = scriptedOrt(SCRIPTS, told);
  return { model: await Florence2.load(folder, { ort, ...options }), state };
}

test("a picture and a task give a result with regions and scores", async () => {
  const { model } = await opened();
  const view = await model.encode(picture(7));
  const result = await view.run("OD");
  assert.deepEqual(result.to_hf(), { "<OD>": { bboxes: [[1, 2, 3, 4]], labels: ["heart"] } });
  const [region] = result.regions;
  assert.deepEqual(region.box, [1, 2, 3, 4]);
  assert.ok(region.score > 0 && region.label_score > 0);
  assert.equal(result.status, "ok");
  assert.deepEqual(Object.keys(result.seconds), ["image", "vision", "prefill", "decode", "parse"]);
  assert.equal((await view.caption()).text, "heart<loc_100><loc_200><loc_300><loc_400>");
  assert.equal((await view.ask("what is it?")).task.token, "what is it?");
  assert.equal(result.filter(2).regions.length, 0);
  assert.throws(() => result.filter(0, { maxRegions: 1 }), /There is no argument maxRegions/);
});

test("lists of pictures are a batch, lists of tasks share an encoding", async () => {
  const { model } = await opened();
  const [one, other] = await model.run([picture(7), picture(8)], "OD");
  assert.equal(one.regions.length, 1);
  assert.equal(other.status, "unparsed");
  assert.equal(other.token_ids.at(-1), 2); // it does not run on while the other is at work
  const [od, caption] = await model.run(picture(8), ["OD", "CAPTION"]);
  assert.equal(od.status, "unparsed");
  assert.equal(caption.text, "heart and");
  const rows = await model.run([picture(7), picture(8)], ["OD", "CAPTION"]);
  assert.deepEqual(
    rows.map((row) => row.map((result) => result.task.name)),
    [
      ["OD", "CAPTION"],
      ["OD", "CAPTION"],
    ],
  );
  assert.deepEqual(await model.run([], "OD"), []);
  const [first, second] = await model.run([picture(7), picture(8)], "REGION_TO_OCR", {
    region: [[0, 0, 5, 5], new RelativeBox(0, 0, 1, 1)],
  });
  assert.equal(first.text_input, "<loc_0><loc_0><loc_500><loc_500>");
  assert.equal(second.text_input, "<loc_0><loc_0><loc_999><loc_999>");
});

test("beams give the same answer where the script has one", async () => {
  const { model } = await opened();
  const result = await model.run(picture(7), "OD", {
    options: { num_beams: 3, early_stopping: false },
  });
  assert.deepEqual(result.to_hf(), { "<OD>": { bboxes: [[1, 2, 3, 4]], labels: ["heart"] } });
});

test("every question of a view takes options, cancel and the text while it is made", async () => {
  const { model } = await opened();
  const view = await model.encode(picture(9));
  const how = { options: { max_new_tokens: 5 } };
  const box = [0, 0, 5, 5];
  const results = [
    await view.caption(2, how),
    await view.detect(null, how),
    await view.detect(["heart", "dart"], how),
    await view.ground("a heart", how),
    await view.segment("a heart", how),
    await view.segment(box, how),
    await view.segment(null, { region: box, ...how }),
    await view.ocr(true, how),
    await view.read(box, how),
    await view.describe(box, how),
    await view.categorize(box, how),
    await view.propose(how),
    await view.dense_captions(how),
  ];
  for (const result of results) assert.equal(result.token_ids.length, 6, result.task.name);
  assert.equal(results[2].text_input, "heart<and>dart");
  assert.equal(results[6].task.name, "REGION_TO_SEGMENTATION");
  const cancelled = await view.ocr(false, { cancel: AbortSignal.abort() });
  assert.equal(cancelled.cut_off, "cancel");
  const pieces = [];
  const said = await view.caption(1, { ...how, on_text: (piece) => pieces.push(piece) });
  assert.equal(pieces.join("").trim(), said.text);
  await assert.rejects(view.propose({ text: "a heart" }), /There is no argument text/);
  await assert.rejects(view.segment("a heart", { region: box }), /one of the two/);
  await assert.rejects(view.segment(), /one of the two/);
  await assert.rejects(view.detect(["heart", " "]), /each phrase must be a text/);
  await assert.rejects(view.ocr({ options: {} }), /regions is .*; it must be true or false/);
  await assert.rejects(view.ground("a heart", null), /Arguments are given by name/);
  await assert.rejects(view.segment(null, null), /Arguments are given by name/);
});

test("text comes while it is made", async () => {
  const { model } = await opened();
  for (const num_beams of [1, 3]) {
    const pieces = [];
    const options = { num_beams, early_stopping: false };
    const result = await model.run(picture(8), "CAPTION", {
      options,
      on_text: (piece) => pieces.push(piece),
    });
    assert.equal(pieces.join(""), result.text);
    assert.ok(pieces.length > 1 || num_beams > 1);
  }
});

test("a signal ends a question with its reason, and the next one is answered", async () => {
  const control = new AbortController();
  let steps = 0;
  const { model } = await opened({ onStep: () => (steps += 1) === 3 && control.abort() });
  await assert.rejects(model.run(picture(9), "CAPTION", { signal: control.signal }), {
    name: "AbortError",
  });
  assert.ok(steps < 6, `${steps} steps were taken`);
  assert.equal((await model.run(picture(8), "CAPTION")).text, "heart and");
});

test("cancel and max_time end an answer as it is, truncated", async () => {
  const control = new AbortController();
  let steps = 0;
  const { model } = await opened({ onStep: () => (steps += 1) === 3 && control.abort() });
  const cancelled = await model.run(picture(9), "CAPTION", { cancel: control.signal });
  assert.deepEqual([cancelled.status, cancelled.cut_off], ["truncated", "cancel"]);
  assert.equal(cancelled.token_ids.length, 4);
  const timed = await model.run(picture(9), "CAPTION", { options: { max_time: 1e-9 } });
  assert.deepEqual([timed.status, timed.cut_off], ["truncated", "time"]);
  const longest = await model.run(picture(9), "CAPTION", { options: { max_new_tokens: 5 } });
  assert.deepEqual([longest.status, longest.cut_off], ["truncated", "length"]);
  assert.equal(longest.token_ids.length, 6);
});

test("calls that overlap run one after the other", async () => {
  const { model } = await opened(); // the scripted engine refuses two runs at once
  const tasks = [7, 8, 7, 8].map((red) => model.run(picture(red), "CAPTION"));
  const texts = (await Promise.all(tasks)).map((result) => result.text);
  assert.equal(texts[0], texts[2]);
  assert.equal(texts[1], "heart and");
});

test("a closed model frees its sessions and says so", async () => {
  const { model, state } = await opened();
  const view = await model.encode(picture(7));
  const last = view.run("OD");
  await model.close();
  assert.equal((await last).status, "ok"); // it was asked before
  assert.equal(state.open, 0);
  await assert.rejects(
    view.run("OD"),
    (error) => error instanceof BackendError && /was closed/u.test(error.message),
  );
  await assert.rejects(model.encode(picture(7)), BackendError);
  await model.close();
});

test("caches grow past their first bucket", async () => {
  const { model } = await opened();
  const options = { max_new_tokens: 90 };
  const result = await model.run(picture(9), "CAPTION", { options });
  assert.equal(result.token_ids.length, 91);
});

test("scores that are no numbers are an error", async () => {
  const { model } = await opened({ scores: NaN });
  await assert.rejects(
    model.run(picture(7), "OD"),
    (error) => error instanceof BackendError && /--precision fp32/u.test(error.message),
  );
});

const REFUSED = [
  [(model) => model.run(picture(7), "ODD"), /There is no task "ODD"\. The tasks are: CAPTION/u],
  [(model) => model.run(picture(7), "OD", { text: "x" }), /<OD> takes no text/u],
  [
    (model) => model.run(picture(7), "OD", { regoin: [1] }),
    /no argument regoin\. The arguments are: text/u,
  ],
  [
    (model) => model.run(picture(7), "OD", { options: { beams: 2 } }),
    /no option beams\. The options are: num_beams/u,
  ],
  [
    (model) => model.run(picture(7), "OD", { options: { num_beams: 9 } }),
    /num_beams is 9; .*1 \(greedy\) to 8/u,
  ],
  [(model) => model.run(picture(7), "OCR", { options: 3 }), /options are 3/u],
  [(model) => model.run(picture(7), "CAPTION_TO_PHRASE_GROUNDING"), /needs a text\. Pass \{text/u],
  [
    (model) => model.run(picture(7), "REGION_TO_OCR", { region: [0.1, 0.1, 0.5, 0.5] }),
    /new RelativeBox\(0\.1/u,
  ],
  [
    (model) => model.run(picture(7), "REGION_TO_OCR", { region: [0, 0, 11, 5] }),
    /leaves the picture, which is 10 x 10/u,
  ],
  [(model) => model.run(picture(7), "REGION_TO_OCR", { region: [5, 0, 1, 5] }), /has no area/u],
  [(model) => model.run([picture(7)], "OD", { on_text() {} }), /on_text needs one picture/u],
  [(model) => model.run(picture(7), []), /No task is named/u],
  [
    (model) => model.run([picture(7), picture(7)], "OCR_WITH_REGION", { text: ["a"] }),
    /text must be one for all of the 2/u,
  ],
  [(model) => model.ask(picture(7), " "), /The prompt is empty/u],
  [(model) => model.ask(picture(7), "a long prompt ".repeat(40)), /room for 63\. Shorten/u],
  [(model) => model.run("street.jpg", "OD"), /In node decode files first/u, ImageError],
  [
    (model) => model.run({ width: 2, height: 2, data: new Uint8Array(5) }, "OD"),
    /has 5 bytes of data/u,
    ImageError,
  ],
  [
    (model) => model.run({ width: 0, height: 2, data: new Uint8Array(0) }, "OD"),
    /no pixels/u,
    ImageError,
  ],
  [
    (model) => model.run({ width: 1e5, height: 1e5, data: new Uint8Array(3) }, "OD"),
    /raise max_pixels/u,
    ImageError,
  ],
  [() => opened({}, { device: "cuda" }), /no device "cuda"\. The devices are: cpu, webgpu/u],
  [() => opened({}, { convention: "nativ" }), /'native' .* or 'microsoft'/u],
  [() => opened({}, { thread: 2 }), /no argument thread\b/u],
  [() => opened({}, { threads: 0 }), /whole number from 1/u],
];

test("bad requests get one message that says what to do", async () => {
  const { model } = await opened();
  for (const [act, message, Kind = RequestError] of REFUSED) {
    await assert.rejects(
      async () => act(model),
      (error) => {
        assert.ok(error instanceof Kind, `${error.stack}`);
        assert.match(error.message, message);
        return true;
      },
    );
  }
});

test("a bundle's own tasks go by their names", async () => {
  const own = {
    token: "<FIND_DENTS>",
    template: "Find {input}.",
    answer: "description_with_bboxes",
    needs: "text",
  };
  const other = writeBundle(
    join(mkdtempSync(join(tmpdir(), "js-")), "own"),
    (manifest) => (manifest.tasks = [own]),
  );
  const model = await Florence2.load(other, { ort: scriptedOrt(SCRIPTS).ort });
  const result = await model.run(picture(7), "find_dents", { text: "dents" });
  assert.deepEqual(result.to_hf(), {
    "<FIND_DENTS>": { bboxes: [[1, 2, 3, 4]], labels: ["heart"] },
  });
  await assert.rejects(model.run(picture(7), "ODD"), /REGION_TO_OCR, FIND_DENTS\./u);
});

test("WebGPU that is not there is said", async () => {
  await assert.rejects(
    opened({}, { device: "webgpu" }),
    (error) => error instanceof BackendError && /no WebGPU here/u.test(error.message),
  );
});

test("float16 is refused on a GPU whose WebGPU has none", async () => {
  const half = writeBundle(
    join(mkdtempSync(join(tmpdir(), "js-")), "half"),
    (manifest) => (manifest.floats = "float16"),
  );
  const { ort } = scriptedOrt(SCRIPTS);
  const inPage = { ...ort, env: { ...ort.env, versions: { common: ort.env.versions.common } } };
  const adapter = { features: new Set(["timestamp-query"]) };
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  const navigator = { gpu: { requestAdapter: async () => adapter } };
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  try {
    await assert.rejects(
      Florence2.load(half, { ort: inPage, device: "webgpu" }),
      (error) => error instanceof BackendError && /lacks shader-f16.*--precision fp32/u.test(error.message),
    );
  } finally {
    if (before) Object.defineProperty(globalThis, "navigator", before);
    else delete globalThis.navigator;
  }
});
