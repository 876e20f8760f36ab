/**
 * ONNX Runtime: a session a graph, by the package that is given: onnxruntime-web or -node.
 *
 * One door for both, because both are one interface (onnxruntime-common). What differs: in a page
 * the weights are handed over as bytes, in node they are mapped from the disk.
 */

import { DECODER, GRAPHS, graphNames } from "./contract.js";
import { BackendError, MODEL_CLOSED, RequestError } from "./errors.js";
import { HostBackend } from "./host.js";
import { shown } from "./options.js";

const MAPPED = "cpu"; // the engine that reads files itself: onnxruntime-node's
const OLDEST = [1, 24]; // from here on no graph leads ONNX Runtime to files outside of its folder

/**
 * Where a bundle runs: `cpu` is WebAssembly in a browser and the processor in node, `webgpu` a GPU.
 *
 * @typedef {"cpu" | "webgpu"} Device
 */

/**
 * The package onnxruntime that the caller brings, or else the one that is installed.
 *
 * @throws {BackendError} there is none, or it is too old
 */
export async function importOrt(given) {
  let ort = given;
  try {
    // package.json says which: onnxruntime-node in node, else onnxruntime-web.
    ort ??= await import("#onnxruntime");
  } catch (error) {
    throw new BackendError(
      "ONNX Runtime is not installed. Install onnxruntime-web for browsers or onnxruntime-node for " +
        "node, and give it: Florence2.load(url, { ort }) after import * as ort from " +
        "'onnxruntime-web'.",
      { cause: error },
    );
  }
  if (!ort.InferenceSession && ort.default?.InferenceSession) ort = ort.default; // of CommonJS
  const version = ort.env?.versions?.common;
  const [major, minor] = String(version).split(".").map(Number);
  if (!(major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]))) {
    throw new BackendError(
      `onnxruntime is of version ${version}, expected ${OLDEST.join(".")} or newer. Update it.`,
    );
  }
  return ort;
}

/**
 * Open a bundle's graphs.
 *
 * @param bundle what is opened (bundle.js)
 * @param ort from `importOrt`
 * @param {{device: Device, threads?: number}} wanted `threads` of one operator; left out, ONNX
 *   Runtime's choice. In a page threads are `ort.env.wasm.numThreads`, once for all sessions
 * @throws {BackendError} the engine does not exist here, does not fit the bundle, or is not able to
 *   open a graph
 */
export async function openOrt(bundle, ort, { device = "cpu", threads }) {
  const engine = await engineFor(device, ort, bundle);
  bundle.checkEngine(engine);
  if (threads !== undefined && (!Number.isInteger(threads) || threads < 1)) {
    throw new RequestError(`threads is ${shown(threads)}; it must be a whole number from 1 on.`);
  }
  if (threads !== undefined && engine !== "cpu") ort.env.wasm.numThreads = threads;
  const sessions = {};
  try {
    const weights = await bundle.weights(engine === MAPPED);
    for (const graph of GRAPHS) {
      const options = sessionOptions(bundle, engine, { graph, threads, weights });
      sessions[graph] = await openSession(bundle, graph, ort, options);
    }
  } catch (error) {
    await release(sessions);
    throw error;
  }
  return new OrtBackend(sessions, bundle, ort, engine);
}

/** The three graphs in ONNX Runtime; the arrays around them are `HostBackend`'s. */
class OrtBackend {
  #sessions;
  #host;

  constructor(sessions, bundle, ort, engine) {
    this.#sessions = sessions;
    this.engine = engine;
    const names = graphNames(bundle.size);
    const run = (graph, feeds) => this.#run(graph, feeds, names[graph].outputs);
    const tensor = (type, data, dims) => new ort.Tensor(type, data, dims);
    this.#host = new HostBackend({ run, tensor }, bundle.size, bundle.floats);
  }

  encodeImage(pixels, images) {
    return this.#host.encodeImage(pixels, images);
  }

  prefill(features, inputIds, wanted) {
    return this.#host.prefill(features, inputIds, wanted);
  }

  async close() {
    const sessions = this.#sessions;
    this.#sessions = null;
    if (sessions) await release(sessions);
  }

  async #run(graph, feeds, outputs) {
    if (this.#sessions === null) throw new BackendError(MODEL_CLOSED);
    try {
      const made = await this.#sessions[graph].run(feeds, outputs);
      return made[outputs.at(-1)].type === "float16" ? asBits(made) : made;
    } catch (error) {
      throw failure("ONNX Runtime failed while running", error);
    }
  }
}

/** Halves as their bits: newer engines of JavaScript have an array of them, which would convert. */
function asBits(made) {
  return Object.fromEntries(
    Object.entries(made).map(([name, { type, data, dims }]) => {
      const bits = () => new Uint16Array(data.buffer, data.byteOffset, data.length);
      return [name, { type, data: type === "float16" ? bits() : data, dims }];
    }),
  );
}

/** Which engine of ONNX Runtime a device is: `cpu`, `wasm` or `webgpu`. */
async function engineFor(device, ort, bundle) {
  const inNode = Boolean(ort.env.versions.node);
  if (device === "cpu") return inNode ? "cpu" : "wasm";
  if (device !== "webgpu") {
    throw new RequestError(`There is no device ${shown(device)}. The devices are: cpu, webgpu.`);
  }
  const gpu = globalThis.navigator?.gpu;
  const adapter = inNode ? null : await gpu?.requestAdapter();
  if (!adapter) {
    throw new BackendError(
      "There is no WebGPU here: the browser lacks it, has no GPU for it, or the page is not served " +
        "over https. Use device 'cpu'.",
    );
  }
  if (bundle.floats === "float16" && !adapter.features.has("shader-f16")) {
    throw new BackendError(
      `${bundle.name} computes in float16, and the GPU here does not in WebGPU (it lacks ` +
        "shader-f16). Export it with --precision fp32, or use device 'cpu'.",
    );
  }
  return "webgpu";
}

function sessionOptions(bundle, engine, { graph, threads, weights }) {
  // Int8 weights of the decoder, and of any graph on a GPU, become floats when a graph is loaded:
  // ONNX Runtime would compute their DequantizeLinear at every step (see ort.py). onnxruntime-node
  // does not take the setting.
  const folded = graph === DECODER || engine === "webgpu" || bundle.target === "gpu";
  return {
    executionProviders: [engine],
    enableMemPattern: false, // less memory at the same speed, as ort.py has measured
    logSeverityLevel: 3, // errors only; what matters is thrown
    ...(threads !== undefined && { intraOpNumThreads: threads }),
    ...(weights !== null && { externalData: [{ path: "weights.bin", data: weights }] }),
    ...(folded && { extra: { session: { disable_quant_qdq: "1" } } }),
  };
}

async function openSession(bundle, graph, ort, options) {
  const model = await bundle.graph(graph, options.externalData === undefined);
  let session;
  try {
    session = await ort.InferenceSession.create(model, options);
  } catch (error) {
    throw failure(`ONNX Runtime cannot open ${graph}.onnx of ${bundle.name}`, error);
  }
  const { inputs, outputs } = graphNames(bundle.size)[graph];
  if (differ(inputs, session.inputNames) || differ(outputs, session.outputNames)) {
    throw new BackendError(
      `The tensors of ${graph}.onnx of ${bundle.name} are not those of the contract. Export the ` +
        "bundle again.",
    );
  }
  return session;
}

function differ(expected, found) {
  return [...expected].sort().join() !== [...found].sort().join();
}

async function release(sessions) {
  await Promise.all(Object.values(sessions).map((session) => session.release()));
}

function failure(doing, error) {
  const memory = /bad_alloc|out of memory|memory access|allocation failed/iu.test(String(error));
  const advice = memory
    ? "There is not enough memory: use a smaller model or --precision int8; WebAssembly has 4 GB."
    : "Export the bundle again, or try another version of onnxruntime.";
  return new BackendError(`${doing}: ${error?.message ?? error}. ${advice}`, { cause: error });
}
