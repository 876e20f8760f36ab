/** A bundle: its manifest, and whether what the manifest names is really there. */

import { CONTRACT_VERSION, GRAPHS, checkSize } from "./contract.js";
import { BackendError, BundleError } from "./errors.js";
import { resolve, shown } from "./options.js";
import { Task } from "./tasks.js";

const MANIFEST = "manifest.json";
const TOKENIZER = "tokenizer.json";
const WEIGHTS = "weights.bin";
const DIGEST = "digest";

const PRECISIONS = ["fp32", "fp16", "int8", "int4"];
const FLOATS = ["float32", "float16"];
const MANIFEST_BYTES = 1 << 20;

/** The engines that a bundle's `target` stands for; all others run on none of ours. */
const ENGINES_OF = {
  any: ["cpu", "wasm", "webgpu"],
  gpu: ["cpu", "wasm", "webgpu"], // made for GPUs, runs everywhere
  onnxruntime: ["cpu", "wasm", "webgpu"], // with operators of its own
  cpu: ["cpu"],
};

/**
 * An exported model: what `manifest.json` says of it, and its files.
 *
 * The names are Python's: `model` (of the checkpoint), `precision`, `target`, `floats`, `size`,
 * `generation`, `files`, `tasks` (the checkpoint's own, beside the 15).
 */
export class Bundle {
  #folder;

  constructor(folder, facts) {
    this.#folder = folder;
    Object.assign(this, facts);
    Object.freeze(this);
  }

  /**
   * Read a bundle's manifest: contract version, digest, and that nothing is missing in it.
   *
   * @param folder where its files are (`download.js`, `disk.js`)
   * @throws {BundleError} what is wrong, what was expected, and what to do
   */
  static async load(folder) {
    const text = new TextDecoder().decode(await folder.readManifest(MANIFEST, MANIFEST_BYTES));
    let content;
    try {
      content = JSON.parse(text);
    } catch (error) {
      throw new BundleError(
        `${folder.name} is not a bundle: its ${MANIFEST} cannot be read. Give the folder that ` +
          "florence-export wrote.",
        { cause: error },
      );
    }
    await checkVersionAndDigest(folder.name, content, text);
    try {
      return new Bundle(folder, factsOf(content));
    } catch (error) {
      throw new BundleError(
        `${MANIFEST} of ${folder.name} is not one that florence-export writes: ${error.message}. ` +
          "Export the bundle again.",
        { cause: error },
      );
    }
  }

  get name() {
    return this.#folder.name;
  }

  /** tokenizer.json, parsed. */
  async tokenizer() {
    const bytes = await this.#opened(TOKENIZER, false);
    try {
      return JSON.parse(new TextDecoder().decode(bytes));
    } catch (error) {
      throw new BundleError(
        `${TOKENIZER} of ${this.name} is not a tokenizer. Copy the bundle again.`,
        { cause: error },
      );
    }
  }

  /** One of the three graphs: its bytes, or with `mapped` what ONNX Runtime opens by itself. */
  graph(name, mapped) {
    return this.#opened(`${name}.onnx`, mapped);
  }

  /** The weights' bytes; null where ONNX Runtime finds them on the disk itself. */
  async weights(mapped) {
    const found = await this.#opened(WEIGHTS, mapped);
    return typeof found === "string" ? null : found;
  }

  /**
   * Refuse an engine that this bundle was not made for.
   *
   * @throws {BackendError} with the export command that makes a fitting bundle
   */
  checkEngine(engine) {
    if (ENGINES_OF[this.target]?.includes(engine)) return;
    throw new BackendError(
      `${this.name} was made for ${this.target} and does not run on ${engine}. It was made of the ` +
        `checkpoint ${this.model}. Run: florence-export CHECKPOINT --precision fp32 --output NEW.`,
    );
  }

  #opened(name, mapped) {
    const stored = this.files[name];
    return mapped ? this.#folder.open(name, stored) : this.#folder.read(name, stored);
  }
}

/** The files that answering takes; what else a bundle has (TensorRT's graphs) is not fetched. */
export const NEEDED = [TOKENIZER, WEIGHTS, ...GRAPHS.map((graph) => `${graph}.onnx`)];

function factsOf(content) {
  const { model, precision, target, floats, size, generation, files } = content;
  for (const [name, value, choices] of [
    ["precision", precision, PRECISIONS],
    ["floats", floats, FLOATS],
  ]) {
    if (!choices.includes(value)) {
      throw new RangeError(`${name} is ${shown(value)}, expected one of ${choices.join(", ")}`);
    }
  }
  for (const name of NEEDED) {
    const { bytes, sha256 } = files?.[name] ?? {};
    if (!Number.isInteger(bytes) || bytes < 0 || !/^[0-9a-f]{64}$/u.test(sha256)) {
      throw new RangeError(`it does not list ${name} with its bytes and sha256`);
    }
  }
  checkSize(size ?? {});
  return {
    model: String(model?.name),
    precision,
    target: String(target),
    floats,
    size: Object.freeze({ ...size }),
    generation: resolve(null, generation ?? {}, size),
    files: Object.freeze({ ...files }),
    tasks: (content.tasks ?? []).map(
      ({ token, template, answer, needs }) => new Task(token, template, answer, needs),
    ),
  };
}

async function checkVersionAndDigest(name, content, text) {
  const version = content?.contract;
  if (version !== CONTRACT_VERSION) {
    throw new BundleError(
      `${name} was exported for contract ${shown(version)}, this runtime speaks ` +
        `${CONTRACT_VERSION}. Export it again with florence-export, or use the florence-edge that ` +
        "made it.",
    );
  }
  const digest = await sha256(new TextEncoder().encode(canonical(text, DIGEST)));
  if (digest !== null && content[DIGEST] !== digest) {
    throw new BundleError(
      `${MANIFEST} of ${name} was changed since the export: it does not fit its digest. To generate ` +
        "in another way, pass options ({num_beams: 1}) instead of editing it; else copy the bundle " +
        "again, or export it again.",
    );
  }
}

/**
 * SHA-256 in hexadecimal; null where the platform has none: a page over plain http.
 *
 * @param {Uint8Array} bytes
 */
export async function sha256(bytes) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) return null;
  const digest = new Uint8Array(await subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * A JSON text as Python's `json.dumps(sort_keys=True, separators=(",", ":"))` writes it, without
 * one key of the outermost object.
 *
 * Read from the text, because numbers keep the way they are written (1.0 is not 1).
 */
export function canonical(text, without) {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gu);
  let at = 0;
  const string = (token) =>
    JSON.stringify(JSON.parse(token)).replace(
      /[\u0080-\uffff]/g,
      (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
  const list = (close, read) => {
    const parts = [];
    while (tokens[at] !== close) {
      parts.push(read());
      if (tokens[at] === ",") at += 1;
    }
    at += 1;
    return parts;
  };
  const value = (outermost = false) => {
    const token = tokens[at++];
    if (token === "[") return `[${list("]", value).join()}]`;
    if (token !== "{") return token[0] === '"' ? string(token) : token;
    const entries = list("}", () => {
      const key = string(tokens[at]);
      at += 2; // and the colon
      return [key, value()];
    }).filter(([key]) => !(outermost && key === JSON.stringify(without)));
    entries.sort(([one], [other]) => (one < other ? -1 : 1));
    return `{${entries.map((entry) => entry.join(":")).join()}}`;
  };
  return value(true);
}
