/**
 * The host's half of an answer, before and after the engine (Hugging Face calls it a processor).
 *
 *     images  ──prepareImages──>  squares of bytes, sizes  ──> vision encoder
 *     prompt  ──promptIds─────>   input ids                ──> text encoder
 *     tokens  ──readHypothesis──> Result
 */

import { RequestError } from "./errors.js";
import { loadImage, resize } from "./image.js";
import { forcedToken } from "./logits_process.js";
import { readAnswer } from "./result.js";

/** Adds up seconds by stage; the stages are those of `Result.seconds`. */
export class Timer {
  seconds = {};

  /** Time what `work` does, and add it to stage `name`. */
  async stage(name, work) {
    const begin = performance.now();
    try {
      return await work();
    } finally {
      this.seconds[name] = (this.seconds[name] ?? 0) + (performance.now() - begin) / 1000;
    }
  }

  /** The seconds of one of `parts` equal parts. */
  share(parts) {
    return Object.fromEntries(
      Object.entries(this.seconds).map(([name, seconds]) => [name, seconds / parts]),
    );
  }
}

/**
 * Read images and squash them to squares of `side` pixels.
 *
 * @returns {Promise<{pixels: Uint8Array, sizes: [number, number][]}>} pixels are [images, side,
 *   side, 3] RGB, sizes width and height of each picture
 * @throws {ImageError} an image cannot be read
 */
export async function prepareImages(images, side, maxPixels) {
  const bytes = side * side * 3;
  const pixels = new Uint8Array(images.length * bytes);
  const sizes = [];
  for (const [at, image] of images.entries()) {
    const picture = await loadImage(image, maxPixels);
    resize(picture, side, pixels.subarray(at * bytes, (at + 1) * bytes));
    sizes.push([picture.width, picture.height]);
  }
  return { pixels, sizes };
}

/**
 * The token ids of one prompt.
 *
 * @throws {RequestError} it is longer than the encoder has room for, or has a token that the model
 *   does not know
 */
export function promptIds(prompt, tokenizer, size) {
  const ids = tokenizer.promptIds(prompt.wording);
  const highest = Math.max(...ids);
  if (highest >= size.vocab_size) {
    throw new RequestError(
      `'${tokenizer.token(highest)}' in the prompt is the tokenizer's number ${highest}, but this ` +
        `model's vocabulary ends at ${size.vocab_size - 1}. Leave it out; if it was trained, export ` +
        "the checkpoint that knows it.",
    );
  }
  const room = size.encoder_positions - size.image_tokens;
  if (ids.length > room) {
    throw new RequestError(
      `The prompt has ${ids.length} tokens, but beside the picture this model has room for ` +
        `${room}. Shorten the text.`,
    );
  }
  return ids;
}

/** What the tokens of an answer say; see `readAnswer` for `about`. */
export function readHypothesis(hypothesis, prompt, { tokenizer, config }, about) {
  const logProbs = [0, ...hypothesis.log_probs];
  const texts = tokenizer.pieces(hypothesis.token_ids);
  const pieces = hypothesis.token_ids.map((token_id, length) => ({
    token_id,
    text: texts[length],
    log_prob: logProbs[length],
    // Those that no search chose.
    forced: length === 0 || forcedToken(length, config) !== null,
  }));
  return readAnswer(prompt.task, pieces, {
    ...about,
    text_input: prompt.text_input,
    cut_off: hypothesis.cut_off,
  });
}
