/** Beams and the rows of their caches: each finds the past that it continues, whatever moved. */

import assert from "node:assert/strict";
import test from "node:test";

import { BeamReorder } from "../../js/florence_edge_js/beam_reorder.js";
import { TOP_K, cacheCapacity } from "../../js/florence_edge_js/contract.js";
import { HostBackend } from "../../js/florence_edge_js/host.js";

const SIZE = {
  image_size: 1,
  image_tokens: 1,
  d_model: 4,
  decoder_layers: 2,
  decoder_heads: 2,
  vocab_size: TOP_K,
  encoder_positions: 8,
  decoder_positions: 200,
};
const [IMAGES, BEAMS] = [2, 4];
const ROWS = IMAGES * BEAMS;

/** The same numbers each time. */
function random(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** A decoder that writes each token into its caches, and scores rows by their number. */
function recordingEngine() {
  const seen = { pasts: [] };
  const tensor = (type, data, dims) => ({ type, data, dims });
  const width = SIZE.d_model / SIZE.decoder_heads;
  async function run(graph, feeds) {
    if (graph === "vision_encoder") {
      return { image_features: tensor("float32", new Float32Array(SIZE.d_model * IMAGES), []) };
    }
    if (graph === "text_encoder") return { "cross_key.0": tensor("float32", [], []) };
    const position = Number(feeds.position.data[0]);
    const [, heads, capacity] = feeds["self_key.1"].dims;
    seen.pasts = Array.from({ length: ROWS }, (_, row) =>
      Array.from({ length: position }, (_, at) => {
        const place = (head) => ((row * heads + head) * capacity + at) * width;
        const [one, other] = [0, heads - 1].map((head) => feeds["self_value.1"].data[place(head)]);
        assert.equal(one, other);
        return one;
      }),
    );
    const added = new Float32Array(ROWS * SIZE.d_model);
    for (let at = 0; at < added.length; at += 1) {
      added[at] = Number(feeds.token_ids.data[Math.floor(at / SIZE.d_model)]);
    }
    const outputs = {
      top_logits: tensor("float32", new Float32Array(ROWS * TOP_K), []),
      top_ids: tensor("int64", new BigInt64Array(ROWS * TOP_K), []),
      log_sum_exp: tensor("float32", Float32Array.from({ length: ROWS }, (_, row) => row), []),
      logits: tensor("float32", new Float32Array(ROWS * TOP_K), []),
    };
    for (const layer of [0, 1]) {
      outputs[`new_key.${layer}`] = tensor("float32", added, []);
      outputs[`new_value.${layer}`] = tensor("float32", added, []);
    }
    return outputs;
  }
  return { engine: { run, tensor }, seen };
}

test("each beam's row holds the tokens that it continues, over all capacities", async () => {
  const { engine, seen } = recordingEngine();
  const below = random(7);
  const backend = new HostBackend(engine, SIZE, "float32");
  const features = await backend.encodeImage(new Uint8Array(3 * IMAGES), IMAGES);
  const decoder = await backend.prefill(features, [[5], [6, 7]], { beams: BEAMS, pad: 1 });
  let pasts = Array.from({ length: IMAGES }, () => Array.from({ length: BEAMS }, () => []));
  let parents = pasts.map((image) => image.map(() => 0));
  for (let step = 0; step < 150; step += 1) {
    const tokens = parents.map((image) => image.map(() => below(1000)));
    const scores = await decoder.step(tokens, parents);
    pasts = pasts.map((image, at) => parents[at].map((parent) => image[parent]));
    for (const [image, { logSumExp }] of scores.entries()) {
      assert.equal(new Set(logSumExp).size, BEAMS);
      for (const [beam, row] of logSumExp.entries()) {
        assert.deepEqual(seen.pasts[row], pasts[image][beam]);
      }
    }
    pasts = pasts.map((image, at) => image.map((past, beam) => [...past, tokens[at][beam]]));
    parents = pasts.map((image) => image.map(() => below(BEAMS)));
  }
});

test("caches have room for what is written, a quarter more at most, and no more than the model", () => {
  for (let tokens = 1; tokens <= 1024; tokens += 1) {
    const capacity = cacheCapacity(tokens, 1000);
    assert.ok(capacity >= Math.min(tokens, 1000) && capacity <= 1000);
    assert.ok(capacity < 1.25 * tokens + 16);
  }
});

test("beams that change places move nothing", () => {
  const reorder = new BeamReorder(1, 3);
  assert.deepEqual(reorder.follow([[0, 0, 0]], 0), []);
  assert.deepEqual(reorder.follow([[1, 2, 0]], 1), []);
  assert.deepEqual(reorder.rowsOf(0), [1, 2, 0]);
  assert.deepEqual(reorder.follow([[1, 1, 0]], 2), [{ row: 0, source: 2, first: 0 }]);
  assert.deepEqual(reorder.rowsOf(0), [2, 0, 1]);
});
