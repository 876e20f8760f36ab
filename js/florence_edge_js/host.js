/**
 * The three graphs of a bundle on arrays of this language, and the caches between them.
 *
 * An engine is `run(graph, inputs)`: inputs and outputs are {name: {type, data, dims}}, data being
 * typed arrays. Float16 is a Uint16Array throughout: caches are only moved.
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
  #run;
  #size;
  #floats;

  /**
   * @param {(graph: string, inputs: object) => Promise<object>} run
   * @param size of the model
   * @param {"float32" | "float16"} floats of features and caches
   */
  constructor(run, size, floats) {
    this.#run = run;
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
    const dims = [images, side, side, 3];
    const { image_features } = await this.#run(VISION_ENCODER, {
      pixels: { type: "uint8", data: pixels, dims },
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
    const encoder_mask = { type: "int64", data: mask, dims: [images, width] };
    const cross = await this.#run(TEXT_ENCODER, {
      image_features: {
        type: this.#floats,
        data: joined(features.map((each) => each.data)),
        dims: [images, size.image_tokens, size.d_model],
      },
      input_ids: { type: "int64", data: ids, dims: [images, longest] },
      encoder_mask,
    });
    const constant = { ...cross, encoder_mask };
    return new HostDecoder(this.#run, size, this.#floats, { constant, images, beams });
  }
}

/** One generation: the decoder with its caches, for a batch of images and their beams. */
class HostDecoder {
  #run;
  #size;
  #floats;
  #constant;
  #images;
  #beams;
  #names;
  #caches;
  #capacity = 0;
  #position = -1;
  #reorder;

  constructor(run, size, floats, { constant, images, beams }) {
    this.#run = run;
    this.#size = size;
    this.#floats = floats;
    this.#constant = constant;
    this.#images = images;
    this.#beams = beams;
    this.#names = cacheNames(size);
    this.#reorder = new BeamReorder(images, beams);
    this.#grow();
  }

  /**
   * Feed one token a row and score the next.
   *
   * @param {number[][]} tokens of each image's rows
   * @param {number[][]} parents row n of an image continues this row of the step before
   * @returns {Promise<Scores[]>} one an image
   */
  async step(tokens, parents) {
    this.#position += 1;
    this.#follow(parents);
    if (this.#position === this.#capacity) this.#grow();
    const outputs = await this.#run(DECODER, {
      ...this.#constant,
      ...this.#caches,
      token_ids: {
        type: "int64",
        data: BigInt64Array.from(tokens.flat(), BigInt),
        dims: [this.#images, this.#beams],
      },
      position: { type: "int64", data: BigInt64Array.of(BigInt(this.#position)), dims: [1] },
    });
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
    this.#caches = Object.fromEntries(
      this.#names.map(({ self }) => {
        const data = new ARRAYS[this.#floats](this.#rows * heads * capacity * width);
        for (let head = 0; before > 0 && head < this.#rows * heads; head += 1) {
          const old = this.#caches[self].data.subarray(
            head * before * width,
            (head + 1) * before * width,
          );
          data.set(old, head * capacity * width);
        }
        return [self, { type: this.#floats, data, dims }];
      }),
    );
    this.#capacity = capacity;
  }

  /** Give each row the past of its parent; only what differs is copied. */
  #follow(parents) {
    const moves = this.#reorder.follow(parents, this.#position);
    if (moves.length === 0) return;
    const width = headDim(this.#size);
    const heads = this.#size.decoder_heads;
    const first = Math.min(...moves.map((move) => move.first));
    const part = (row, head) => {
      const start = (row * heads + head) * this.#capacity;
      return [(start + first) * width, (start + this.#position) * width];
    };
    for (const { self } of this.#names) {
      const { data } = this.#caches[self];
      for (let head = 0; head < heads; head += 1) {
        // All are read before one is written: beams may change places.
        const pasts = moves.map(({ source }) => data.slice(...part(source, head)));
        moves.forEach(({ row }, at) => data.set(pasts[at], part(row, head)[0]));
      }
    }
  }

  /** Write the step's new rows into the caches. */
  #place(outputs) {
    const width = headDim(this.#size);
    for (const { self, row } of this.#names) {
      const { data } = this.#caches[self];
      const added = outputs[row].data;
      for (let head = 0; head * width < added.length; head += 1) {
        const place = (head * this.#capacity + this.#position) * width;
        data.set(added.subarray(head * width, (head + 1) * width), place);
      }
    }
  }

  #scores({ top_logits, top_ids, log_sum_exp, logits }) {
    const vocab = this.#size.vocab_size;
    const beams = Array.from({ length: this.#beams }, (_, beam) => beam);
    return Array.from({ length: this.#images }, (_, image) => {
      const rows = beams.map((beam) => image * this.#beams + beam);
      const cut = (data, width) => rows.map((row) => data.subarray(row * width, (row + 1) * width));
      return new Scores(
        cut(top_logits.data, TOP_K),
        cut(top_ids.data, TOP_K).map((ids) => Array.from(ids, Number)),
        log_sum_exp.data.subarray(rows[0], rows[0] + this.#beams),
        () =>
          cut(logits.data, vocab).map((row) => (logits.type === "float16" ? widened(row) : row)),
      );
    });
  }
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
