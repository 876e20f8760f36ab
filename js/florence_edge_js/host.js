/**
 * The three graphs of a bundle on arrays of this language, and the caches between them.
 *
 * An engine is {run(graph, feeds), tensor(type, data, dims)}. What comes out of a run is {name:
 * {type, data, dims}}, data being typed arrays; what goes in are tensors, which are made once and
 * stand for what their array holds by then. Float16 is a Uint16Array throughout: caches are only
 * moved.
 */

import { BeamReorder } from "./beam_reorder.js";
import {
  DECODER,
  TEXT_ENCODER,
  TOP_K,
  VISION_ENCODER,
  cacheCapacity,
  cacheNames,
  headDim,
} from "./contract.js";
import { Scores } from "./search.js";

const ARRAYS = { float32: Float32Array, float16: Uint16Array };

/**
 * Image features: [images, image tokens, d_model] in one array.
 *
 * @typedef {{images: number, data: Float32Array | Uint16Array}} Features
 */

export class HostBackend {
  #engine;
  #size;
  #floats;

  /**
   * @param engine see above
   * @param size of the model
   * @param {"float32" | "float16"} floats of features and caches
   */
  constructor(engine, size, floats) {
    this.#engine = engine;
    this.#size = size;
    this.#floats = floats;
  }

  /**
   * Run the vision encoder on squares [images, S, S, 3], RGB.
   *
   * @returns {Promise<Features[]>} one for each image
   */
  async encodeImage(pixels, images) {
    const { image_size: side } = this.#size;
    const { image_features } = await this.#engine.run(VISION_ENCODER, {
      pixels: this.#engine.tensor("uint8", pixels, [images, side, side, 3]),
    });
    const each = image_features.data.length / images;
    return Array.from({ length: images }, (_, image) => ({
      images: 1,
      data: image_features.data.slice(image * each, (image + 1) * each),
    }));
  }

  /**
   * Run the text encoder and open a decoder for `beams` rows an image.
   *
   * @param {Features[]} features of each image
   * @param {number[][]} inputIds of each image, of any length
   * @param pad the token that shorter ones are filled with; it is masked
   */
  async prefill(features, inputIds, { beams, pad }) {
    const engine = this.#engine;
    const size = this.#size;
    const images = inputIds.length;
    const longest = Math.max(...inputIds.map((ids) => ids.length));
    const width = size.image_tokens + longest;
    const ids = new BigInt64Array(images * longest).fill(BigInt(pad));
    const mask = new BigInt64Array(images * width).fill(1n);
    inputIds.forEach((row, image) => {
      row.forEach((id, at) => (ids[image * longest + at] = BigInt(id)));
      mask.fill(0n, image * width + size.image_tokens + row.length, (image + 1) * width);
    });
    const encoder_mask = engine.tensor("int64", mask, [images, width]);
    const given = joined(features.map((each) => each.data));
    const cross = await engine.run(TEXT_ENCODER, {
      image_features: engine.tensor(this.#floats, given, [images, size.image_tokens, size.d_model]),
      input_ids: engine.tensor("int64", ids, [images, longest]),
      encoder_mask,
    });
    const constant = { encoder_mask };
    for (const [name, { type, data, dims }] of Object.entries(cross)) {
      constant[name] = engine.tensor(type, data, dims);
    }
    return new HostDecoder(engine, size, this.#floats, { constant, images, beams });
  }
}

/** One generation: the decoder with its caches, for a batch of images and their beams. */
class HostDecoder {
  #engine;
  #size;
  #floats;
  #images;
  #beams;
  #names;
  #reorder;
  #feeds; // the same tensors at every step; what changes is in their arrays
  #tokens;
  #at = new BigInt64Array(1);
  #caches = {}; // arrays, by the name of the input
  #capacity = 0;
  #position = -1;

  constructor(engine, size, floats, { constant, images, beams }) {
    this.#engine = engine;
    this.#size = size;
    this.#floats = floats;
    this.#images = images;
    this.#beams = beams;
    this.#names = cacheNames(size);
    this.#reorder = new BeamReorder(images, beams);
    this.#tokens = new BigInt64Array(images * beams);
    this.#feeds = {
      ...constant,
      token_ids: engine.tensor("int64", this.#tokens, [images, beams]),
      position: engine.tensor("int64", this.#at, [1]),
    };
    this.#grow();
  }

  /**
   * Feed one token a beam and score the next.
   *
   * @param {number[][]} tokens of each image's beams
   * @param {number[][]} parents beam n of an image continues this beam of the step before
   * @returns {Promise<Scores[]>} one an image, a row a beam
   */
  async step(tokens, parents) {
    this.#position += 1;
    this.#follow(parents);
    if (this.#position === this.#capacity) this.#grow();
    const rows = parents.flatMap((_, image) => this.#reorder.rowsOf(image));
    tokens.flat().forEach((token, beam) => (this.#tokens[rows[beam]] = BigInt(token)));
    this.#at[0] = BigInt(this.#position);
    const outputs = await this.#engine.run(DECODER, this.#feeds);
    this.#place(outputs);
    return this.#scores(outputs);
  }

  get #rows() {
    return this.#images * this.#beams;
  }

  /** Go on in caches of the next capacity, with a copy of the rows so far; the rest is zero. */
  #grow() {
    const { decoder_heads: heads, decoder_positions: positions } = this.#size;
    const before = this.#capacity;
    const width = headDim(this.#size);
    const capacity = cacheCapacity(this.#position + 1, positions);
    const dims = [this.#rows, heads, capacity, width];
    for (const { self } of this.#names) {
      const data = new ARRAYS[this.#floats](this.#rows * heads * capacity * width);
      for (let head = 0; before > 0 && head < this.#rows * heads; head += 1) {
        const old = this.#caches[self].subarray(head * before * width, (head + 1) * before * width);
        data.set(old, head * capacity * width);
      }
      this.#caches[self] = data;
      this.#feeds[self] = this.#engine.tensor(this.#floats, data, dims);
    }
    this.#capacity = capacity;
  }

  /** Give each row the past of its parent; only what differs is copied. */
  #follow(parents) {
    const moves = this.#reorder.follow(parents, this.#position);
    if (moves.length === 0) return;
    const width = headDim(this.#size);
    const heads = this.#size.decoder_heads;
    const end = this.#position * width;
    for (const { self } of this.#names) {
      const data = this.#caches[self];
      for (let head = 0; head < heads; head += 1) {
        const start = (row) => (row * heads + head) * this.#capacity * width;
        for (const { row, source, first } of moves) {
          const from = start(source) + first * width;
          data.copyWithin(start(row) + first * width, from, start(source) + end);
        }
      }
    }
  }

  /** Write the step's new rows into the caches. */
  #place(outputs) {
    const width = headDim(this.#size);
    for (const { self, row } of this.#names) {
      const data = this.#caches[self];
      const added = outputs[row].data;
      let place = this.#position * width;
      for (let at = 0; at < added.length; at += width) {
        // A head has some 64 numbers: faster one by one than by views of the arrays.
        for (let i = 0; i < width; i += 1) data[place + i] = added[at + i];
        place += this.#capacity * width;
      }
    }
  }

  #scores({ top_logits, top_ids, log_sum_exp, logits }) {
    const vocab = this.#size.vocab_size;
    const ids = numbers(top_ids.data);
    return Array.from({ length: this.#images }, (_, image) => {
      const rows = this.#reorder.rowsOf(image);
      const cut = (data, width) => rows.map((row) => data.subarray(row * width, (row + 1) * width));
      return new Scores(
        cut(top_logits.data, TOP_K),
        cut(ids, TOP_K),
        Float32Array.from(rows, (row) => log_sum_exp.data[row]),
        () =>
          cut(logits.data, vocab).map((row) => (logits.type === "float16" ? widened(row) : row)),
      );
    });
  }
}

/** Token ids as numbers; a loop, which is several times as fast as `from`. */
function numbers(ids) {
  const found = new Int32Array(ids.length);
  for (let at = 0; at < ids.length; at += 1) found[at] = Number(ids[at]);
  return found;
}

function joined(arrays) {
  if (arrays.length === 1) return arrays[0];
  const all = new arrays[0].constructor(arrays.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const each of arrays) {
    all.set(each, at);
    at += each.length;
  }
  return all;
}

/** Halves (their bits) as float32. */
function widened(halves) {
  return Float32Array.from(halves, (bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent === 0
      ? sign * fraction * 2 ** -24
      : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}
