/**
 * The contract between export and runtime: names and shapes of the three graphs.
 *
 *     pixels ─ vision_encoder ─> image_features ─ text_encoder ─> cross_key.i, cross_value.i
 *                                                                         │
 *     token_ids, position, self caches ───────────────────────────── decoder ─> scores, new rows
 *
 * Symbols in shapes: B images, T prompt tokens, E = image tokens + T, N beams, R = B*N cache rows,
 * S cache capacity. It is contract.py's, in as far as a bundle's portable graphs are concerned.
 */

export const CONTRACT_VERSION = 3;

export const VISION_ENCODER = "vision_encoder";
export const TEXT_ENCODER = "text_encoder";
export const DECODER = "decoder";
export const GRAPHS = [VISION_ENCODER, TEXT_ENCODER, DECODER];

export const TOP_K = 32; // scores that leave the decoder per row; search needs 2 * beams of them
export const MAX_BEAMS = 8;
export const CACHE_STEP = 16; // rows by which a cache grows, at least

const PARTS = ["key", "value"];

/** Far beyond every Florence-2, and small enough to be computed with. */
const MOST = {
  image_size: 1 << 14,
  image_tokens: 1 << 20,
  d_model: 1 << 16,
  decoder_layers: 1 << 10,
  decoder_heads: 1 << 12,
  vocab_size: 1 << 24,
  encoder_positions: 1 << 20,
  decoder_positions: 1 << 20,
};

/**
 * Refuse numbers that no model has, before anything is allocated by them.
 *
 * @throws {RangeError} naming the number, and what was expected
 */
export function checkSize(size) {
  for (const [name, most] of Object.entries(MOST)) {
    const value = size[name];
    if (!Number.isInteger(value) || value < 1 || value > most) {
      throw new RangeError(`${name} is ${value}, expected 1 to ${most}`);
    }
  }
  for (const [holds, expected] of [
    [size.d_model % size.decoder_heads === 0, "decoder_heads must divide d_model"],
    [size.vocab_size >= TOP_K, `vocab_size must be ${TOP_K} or more`],
    [size.encoder_positions > size.image_tokens, "the encoder must hold image and text"],
  ]) {
    if (!holds) throw new RangeError(`${expected}, but the sizes are ${JSON.stringify(size)}`);
  }
}

/** Width of one attention head of the decoder. */
export function headDim(size) {
  return size.d_model / size.decoder_heads;
}

/**
 * Names of the caches of all layers, [R or B, heads, S or E, head_dim].
 *
 * @returns {{self: string, cross: string, row: string}[]} `row` is what a step adds to `self`,
 *   [R, heads, 1, head_dim]; rows of `self` that are not yet written are zero
 */
export function cacheNames(size) {
  return Array.from({ length: size.decoder_layers }, (_, layer) =>
    PARTS.map((part) => ({
      self: `self_${part}.${layer}`,
      cross: `cross_${part}.${layer}`,
      row: `new_${part}.${layer}`,
    })),
  ).flat();
}

/** Names of the inputs and outputs of each graph. */
export function graphNames(size) {
  const caches = cacheNames(size);
  const cross = caches.map((each) => each.cross);
  return {
    [VISION_ENCODER]: { inputs: ["pixels"], outputs: ["image_features"] },
    [TEXT_ENCODER]: { inputs: ["image_features", "input_ids", "encoder_mask"], outputs: cross },
    [DECODER]: {
      inputs: [
        "token_ids",
        "position",
        "encoder_mask",
        ...caches.map((each) => each.self),
        ...cross,
      ],
      outputs: [
        "top_logits",
        "top_ids",
        "log_sum_exp",
        "logits",
        ...caches.map((each) => each.row),
      ],
    },
  };
}

/**
 * For how many rows a cache is made that is to hold `tokens`: some more, up to all `positions`.
 *
 * Python doubles it, for engines that plan for each capacity. Here none does, and a page copies a
 * cache into WebAssembly at each step, with what is not yet written: a quarter more is less to copy.
 */
export function cacheCapacity(tokens, positions) {
  const steps = Math.ceil((1.25 * tokens) / CACHE_STEP);
  return Math.min(steps * CACHE_STEP, positions);
}
