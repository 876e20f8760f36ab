/** The decoder in ONNX Runtime and nothing around it: what a step of more beams costs at least. */

import { DECODER, cacheNames, graphNames, headDim } from "../../js/florence_edge_js/contract.js";
import { median } from "./measure.mjs";

const PROMPT = 13; // tokens; the encoder's caches hold these and the picture's
const RUNS = 10; // a round: short, so that some meet no other work of the machine

/**
 * Open a float32 decoder by ONNX Runtime's defaults and run it on zeros.
 *
 * @param ort onnxruntime-web or -node
 * @param {{graph: Uint8Array, weights: Uint8Array, size: object}} bundle its files, and its model
 * @param {{threads: number, rounds: number, beams: number[], capacity: number}} plan rows that the
 *   caches have; one number of beams after the other, again and again
 * @returns {Promise<Record<number, number[]>>} by beams: median milliseconds of a run, of each round
 */
export async function decoderAlone(ort, { graph, weights, size }, plan) {
  if (ort.env.wasm) ort.env.wasm.numThreads = plan.threads;
  const session = await ort.InferenceSession.create(graph, {
    externalData: [{ path: "weights.bin", data: weights }],
    intraOpNumThreads: plan.threads,
    logSeverityLevel: 3,
  });
  const { outputs } = graphNames(size)[DECODER];
  const feeds = plan.beams.map((beams) => zeros(ort, size, beams, plan.capacity));
  const found = Object.fromEntries(plan.beams.map((beams) => [beams, []]));
  for (let round = -1; round < plan.rounds; round += 1) {
    for (const [at, beams] of plan.beams.entries()) {
      const times = [];
      for (let run = 0; run < RUNS; run += 1) {
        const begun = performance.now();
        await session.run(feeds[at], outputs);
        times.push(performance.now() - begun);
      }
      if (round >= 0) found[beams].push(median(times)); // the first warms up
    }
  }
  await session.release();
  return found;
}

/** What the decoder is fed for `beams` of one picture, at the last row of its caches. */
function zeros(ort, size, beams, capacity) {
  const width = size.image_tokens + PROMPT;
  const cache = (rows, length) => {
    const dims = [rows, size.decoder_heads, length, headDim(size)];
    return new ort.Tensor(
      "float32",
      new Float32Array(dims.reduce((all, each) => all * each)),
      dims,
    );
  };
  const feeds = {
    token_ids: new ort.Tensor("int64", new BigInt64Array(beams), [1, beams]),
    position: new ort.Tensor("int64", new BigInt64Array([BigInt(capacity - 1)]), [1]),
    encoder_mask: new ort.Tensor("int64", new BigInt64Array(width).fill(1n), [1, width]),
  };
  for (const { self, cross } of cacheNames(size)) {
    feeds[self] = cache(beams, capacity);
    feeds[cross] = cache(1, width);
  }
  return feeds;
}
