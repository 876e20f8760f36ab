/**
 * The model in a thread of its own, so that the page stays quick; messages in, messages out.
 *
 *     {type: "load", bundle}                        -> progress ..., ready
 *     {type: "ask", id, picture, task, text, region, beams}
 *                                                   -> text ..., answer
 *     {type: "stop"}                                   the answer that is being made is given up,
 *                                                      not the look at its picture
 *
 * `picture` is a Blob or an ImageBitmap; left out, the question is about the last one, which is
 * not looked at again. Everything may also be answered by {type: "error"}.
 */

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { Florence2 } from "./node_modules/florence-edge/florence_edge_js/index.js";

const MOST_THREADS = 4;

let model = null;
let viewing = null; // the look at the last picture
let running = new AbortController();

/** A look at a picture, whatever is asked about it, or asked no more. */
async function seen(picture) {
  try {
    return await model.encode(picture);
  } finally {
    picture.close?.();
  }
}

const DOES = {
  async load({ bundle }) {
    // Threads need an isolated page; see service_worker.js.
    const threads = self.crossOriginIsolated
      ? Math.min(navigator.hardwareConcurrency, MOST_THREADS)
      : 1;
    const on_progress = (progress) => postMessage({ type: "progress", ...progress });
    model = await Florence2.load(bundle, { ort, threads, on_progress });
    const { model: name, precision } = model.bundle;
    postMessage({ type: "ready", name, precision, threads });
  },

  async ask({ id, picture, task, text, region, beams }) {
    running = new AbortController();
    const { signal } = running;
    const options = { num_beams: beams };
    const on_text = (piece) => postMessage({ type: "text", id, piece });
    if (picture) viewing = seen(picture);
    const view = await viewing;
    const how = { options, signal, on_text };
    const result =
      task === null
        ? await view.ask(text, how)
        : await view.run(task, { ...how, ...(text && { text }), ...(region && { region }) });
    postMessage({
      type: "answer",
      id,
      task,
      size: view.size,
      text: result.text,
      raw_text: result.raw_text,
      status: result.status,
      score: result.score,
      // Region is a class; what is posted are its plain fields.
      regions: result.regions.map((each) => ({ ...each })),
      is_text: result.task.answer === "pure_text",
      seconds: result.seconds,
    });
  },

  stop() {
    running.abort();
  },
};

self.addEventListener("message", async ({ data }) => {
  try {
    await DOES[data.type](data);
  } catch (error) {
    const stopped = error.name === "AbortError";
    postMessage({ type: stopped ? "stopped" : "error", id: data.id, message: error.message });
  }
});
