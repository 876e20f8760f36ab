/** The loop: the decoder scores, the searches choose, until every image has its answer. */

import { BackendError } from "./errors.js";
import { openSearch } from "./search.js";

const LONGEST_BLOCK = 40; // milliseconds that a page may stand still

/**
 * How one image of a batch is answered.
 *
 * @typedef {{config: object, stop: () => CutOff | null, onTokens: Function | null}} Asked all
 *   images of a batch have the same `num_beams`; the step after which `stop` says why is this
 *   image's last, and what there is its answer
 */

/**
 * Whether `cancel` is aborted, or `maxTime` seconds have passed since this call, and which.
 *
 * @returns {() => CutOff | null}
 */
export function stopAfter(maxTime, cancel) {
  const deadline = maxTime == null ? Infinity : performance.now() + 1000 * maxTime;
  return () => {
    if (cancel?.aborted) return "cancel";
    return performance.now() > deadline ? "time" : null;
  };
}

/**
 * The answers of a batch; each is what the image gets alone, whatever becomes of its neighbours.
 *
 * @param decoder {step(tokens, parents)}: see `host.js`
 * @param {Asked[]} asked
 * @param {AbortSignal} [signal] ends the batch with its reason
 * @returns {Promise<Hypothesis[]>}
 * @throws {BackendError} a step failed, or gave scores that are not finite numbers
 */
export async function generateEach(decoder, asked, signal) {
  if (asked.length === 0) return [];
  const searches = asked.map((each) => openSearch(each.config));
  const rows = searches.map((search) => new Array(search.rows).fill(0));
  const tokens = asked.map(({ config }, image) =>
    rows[image].map(() => config.decoder_start_token_id),
  );
  const parents = rows.map((row) => [...row]); // before the first step all rows are alike
  const breathe = pacer();
  const answers = new Map();
  while (answers.size < asked.length) {
    signal?.throwIfAborted();
    const scores = await decoder.step(tokens, parents);
    await breathe();
    for (const [image, { stop, onTokens }] of asked.entries()) {
      if (answers.has(image)) continue;
      checkFinite(scores[image]);
      const step = searches[image].advance(scores[image], stop());
      tokens[image] = step.tokens;
      // The rows of an answer that is complete idle along until the others are done.
      parents[image] = step.done ? rows[image].map((_, row) => row) : step.parents;
      onTokens?.(searches[image].agreed(), step.done);
      if (step.done) answers.set(image, searches[image].best());
    }
  }
  return asked.map((_, image) => answers.get(image));
}

/** Lets a page handle its events now and then: WebAssembly runs in the page's own thread. */
function pacer() {
  let begun = performance.now();
  return async () => {
    if (performance.now() - begun < LONGEST_BLOCK) return;
    await new Promise((done) => setTimeout(done));
    begun = performance.now();
  };
}

/** One NaN among a row's logits makes all of it NaN, and nothing can be chosen by these. */
function checkFinite(scores) {
  const best = scores.topLogits.map((row) => row[0]);
  if (best.every(Number.isFinite) && scores.logSumExp.every(Number.isFinite)) return;
  throw new BackendError(
    "The engine's scores are not finite numbers (NaN). In a bundle of fp16, int8 or int4 values " +
      "inside have left the range of float16: export the checkpoint with --precision fp32. With " +
      "fp32, the checkpoint's weights give NaN.",
  );
}
