/**
 * What is compared, asked the same way: {name, load, vision, answer, close}.
 *
 * `vision(picture)` looks at it and gives the seconds of the vision encoder; `answer(beams, tokens)`
 * then gives exactly `tokens` tokens about it, and returns when each was there, in milliseconds.
 */

/**
 * The systems of a plan: those that `systems` names, or transformers.js in each of `dtypes`.
 *
 * @param modules {Florence2, ort, transformers}
 * @param device of transformers.js; left out in node
 */
export function systemsOf(plan, { Florence2, ort, transformers }, device) {
  if (plan.dtypes) {
    return plan.dtypes.map((dtype) => theirs(transformers, { ...plan, device, dtype, name: dtype }));
  }
  const made = {
    "florence-edge": () => ours(Florence2, ort, plan),
    "transformers.js": () => theirs(transformers, { ...plan, device }),
  };
  return plan.systems.map((name) => made[name]());
}

/** florence-edge, with an onnxruntime of the caller's. */
function ours(Florence2, ort, { bundle, threads }) {
  let model;
  let view;
  return {
    name: "florence-edge",
    async load() {
      model = await Florence2.load(bundle, { ort, threads, cache: false });
    },
    async vision(picture) {
      view = await model.encode(picture);
      return view.seconds.vision;
    },
    async answer(num_beams, tokens) {
      const times = [];
      // It is asked after each step.
      const cancel = {
        get aborted() {
          return times.push(performance.now()) < 0;
        },
      };
      const options = {
        num_beams,
        min_new_tokens: tokens,
        max_new_tokens: tokens,
        early_stopping: true,
      };
      await view.run("MORE_DETAILED_CAPTION", { options, cancel });
      return times;
    },
    close: () => model.close(),
  };
}

/** transformers.js; it knows no beams. */
function theirs(transformers, { folder, threads, device, dtype = "fp32", name }) {
  const { AutoProcessor, BaseStreamer, Florence2ForConditionalGeneration, RawImage, env } =
    transformers;
  let model;
  let processor;
  let inputs;
  class Clock extends BaseStreamer {
    times = [];

    put() {
      this.times.push(performance.now());
    }

    end() {}
  }
  return {
    name: name ?? "transformers.js",
    async load() {
      env.allowRemoteModels = false;
      env.allowLocalModels = true;
      env.useBrowserCache = false;
      env.localModelPath = folder.slice(0, folder.lastIndexOf("/") + 1);
      const id = folder.slice(folder.lastIndexOf("/") + 1);
      const session_options = device ? {} : { intraOpNumThreads: threads };
      if (device) env.backends.onnx.wasm.numThreads = threads;
      model = await Florence2ForConditionalGeneration.from_pretrained(id, {
        dtype,
        session_options,
        ...(device && { device }),
      });
      processor = await AutoProcessor.from_pretrained(id);
    },
    async vision({ width, height, data }) {
      const image = new RawImage(new Uint8ClampedArray(data), width, height, 3);
      inputs = await processor(image, "<MORE_DETAILED_CAPTION>");
      const begun = performance.now();
      await model.encode_image({ pixel_values: inputs.pixel_values });
      return (performance.now() - begun) / 1000;
    },
    async answer(beams, tokens) {
      if (beams !== 1) return null;
      const streamer = new Clock();
      await model.generate({
        ...inputs,
        num_beams: 1,
        min_new_tokens: tokens,
        max_new_tokens: tokens,
        streamer,
      });
      return streamer.times;
    },
    close: () => model.dispose(),
  };
}
