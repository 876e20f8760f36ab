/**
 * A bundle without a model, and an ONNX Runtime that answers by a script: no engine, no weights.
 *
 * The next token follows from the one before: `script` maps token -> next token, for each first byte
 * of the picture ("red"), so that pictures of a batch can be told apart.
 */

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { canonical } from "../../js/florence_edge_js/bundle.js";
import { graphNames } from "../../js/florence_edge_js/contract.js";

const SIZE = {
  image_size: 2,
  image_tokens: 1,
  d_model: 2,
  decoder_layers: 1,
  decoder_heads: 1,
  vocab_size: 2460,
  encoder_positions: 64,
  decoder_positions: 100,
};
const GENERATION = {
  num_beams: 1,
  max_new_tokens: 40,
  min_new_tokens: 0,
  no_repeat_ngram_size: 0,
  repetition_penalty: 1,
  length_penalty: 1,
  early_stopping: true,
  forced_bos_token_id: 0,
  forced_eos_token_id: 2,
  suppress_tokens: [],
  begin_suppress_tokens: [],
  bad_words_ids: [],
  decoder_start_token_id: 2,
  bos_token_id: 0,
  eos_token_id: [2],
  pad_token_id: 1,
};
const TOKENIZER = new URL(
  "../../calibration/florence_edge_calibration/miniature/checkpoint/tokenizer.json",
  import.meta.url,
);

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

/**
 * Write a bundle whose graphs are empty files; `change` may spoil the manifest before its digest,
 * and `weights` tell versions apart.
 */
export function writeBundle(folder, change = () => {}, weights = "weights") {
  mkdirSync(folder, { recursive: true });
  const contents = {
    "tokenizer.json": readFileSync(TOKENIZER),
    "weights.bin": Buffer.from(weights),
    "vision_encoder.onnx": Buffer.from("vision"),
    "text_encoder.onnx": Buffer.from("text"),
    "decoder.onnx": Buffer.from("decoder"),
  };
  const files = {};
  for (const [name, content] of Object.entries(contents)) {
    writeFileSync(join(folder, name), content);
    files[name] = { bytes: content.length, sha256: sha256(content) };
  }
  const manifest = {
    contract: 3,
    producer: "tests — naïve",
    model: { name: "scripted", sha256: "" },
    precision: "fp32",
    target: "any",
    floats: "float32",
    size: { ...SIZE },
    generation: { ...GENERATION },
    files,
  };
  change(manifest);
  const digest = sha256(canonical(JSON.stringify(manifest), "digest"));
  writeFileSync(join(folder, "manifest.json"), JSON.stringify({ digest, ...manifest }, null, 2));
  return folder;
}

class Tensor {
  constructor(type, data, dims) {
    Object.assign(this, { type, data, dims });
  }
}

/**
 * @param {Record<number, Record<number, number>>} scripts by the picture's first byte
 * @param {{onStep?: (tokens: number[]) => void, scores?: number}} told called at each step; `scores`
 *   stands for the best logit (NaN: a broken engine)
 */
export function scriptedOrt(scripts, { onStep = () => {}, scores = 9 } = {}) {
  const names = graphNames(SIZE);
  const state = { running: 0, open: 0, models: [], options: [] };
  class InferenceSession {
    constructor(graph) {
      this.graph = graph;
      this.inputNames = names[graph].inputs;
      this.outputNames = names[graph].outputs;
    }

    static async create(model, options) {
      state.models.push(model);
      state.options.push(options);
      state.open += 1;
      const text =
        typeof model === "string" ? readFileSync(model, "utf8") : new TextDecoder().decode(model);
      const graph = { vision: "vision_encoder", text: "text_encoder", decoder: "decoder" }[text];
      return new InferenceSession(graph);
    }

    async run(inputs) {
      if (state.running > 0) throw new Error("two runs at once");
      state.running += 1;
      await new Promise((done) => setImmediate(done));
      state.running -= 1;
      return GRAPHS[this.graph](inputs);
    }

    async release() {
      state.open -= 1;
    }
  }
  const GRAPHS = {
    vision_encoder({ pixels: { data, dims } }) {
      const first = Array.from({ length: dims[0] }, (_, image) => data[image * 12]);
      const features = Float32Array.from(first.flatMap((red) => [red, 0]));
      return { image_features: new Tensor("float32", features, [dims[0], 1, 2]) };
    },
    text_encoder({ image_features, encoder_mask }) {
      const [images, width] = encoder_mask.dims;
      const cache = new Float32Array(images * width * 2);
      for (let image = 0; image < images; image += 1) {
        cache[image * width * 2] = image_features.data[image * 2];
      }
      const tensor = new Tensor("float32", cache, [images, 1, width, 2]);
      return { "cross_key.0": tensor, "cross_value.0": tensor };
    },
    decoder(inputs) {
      const [images, beams] = inputs.token_ids.dims;
      const tokens = Array.from(inputs.token_ids.data, Number);
      onStep(tokens);
      const width = inputs["cross_key.0"].data.length / images;
      const next = tokens.map((token, row) => {
        const red = inputs["cross_key.0"].data[Math.floor(row / beams) * width];
        return scripts[red][token] ?? 2;
      });
      return scored(next, scores);
    },
  };
  return {
    ort: {
      InferenceSession,
      Tensor,
      env: { versions: { common: "1.30.0", node: "1.30.0" }, wasm: {} },
    },
    state,
  };
}

/** Scores of which the best is the wanted token, and the others fall behind it one by one. */
function scored(next, best) {
  const rows = next.length;
  const ids = next.flatMap((token) =>
    [token, ...[...Array(32).keys()].map((id) => id + 3).filter((id) => id !== token)].slice(0, 32),
  );
  const logits = new Float32Array(rows * SIZE.vocab_size);
  const top = Float32Array.from({ length: rows * 32 }, (_, at) =>
    at % 32 === 0 ? best : -(at % 32),
  );
  ids.forEach((id, at) => (logits[Math.floor(at / 32) * SIZE.vocab_size + id] = top[at]));
  const row = new Tensor("float32", new Float32Array(rows * 2), [rows, 1, 1, 2]);
  return {
    top_logits: new Tensor("float32", top, [rows, 32]),
    top_ids: new Tensor("int64", BigInt64Array.from(ids, BigInt), [rows, 32]),
    log_sum_exp: new Tensor("float32", new Float32Array(rows), [rows]),
    logits: new Tensor("float32", logits, [rows, SIZE.vocab_size]),
    "new_key.0": row,
    "new_value.0": row,
  };
}

/** A picture of 10 x 10 pixels whose first byte is `red`. */
export function picture(red) {
  return { width: 10, height: 10, data: new Uint8Array(300).fill(red) };
}
