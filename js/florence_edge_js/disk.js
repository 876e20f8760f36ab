/**
 * A bundle in a folder on this machine (node and Electron); ONNX Runtime maps its weights.
 *
 * Imported as "#disk" and in node alone: no page has these modules of node.
 */

import { createHash } from "node:crypto";
import { createReadStream, existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { BundleError, BundleNotFoundError } from "./errors.js";

export class DiskFolder {
  #path;
  #verify;

  /** @param {string} source path of the folder, or its file: URL */
  static open(source, { verify }) {
    const path = source.startsWith("file:") ? fileURLToPath(source) : source;
    if (!existsSync(path)) {
      throw new BundleNotFoundError(
        `There is no bundle at ${path}. Make one: florence-export MODEL --output ${path}.`,
      );
    }
    return new DiskFolder(resolve(path), verify);
  }

  constructor(path, verify) {
    this.#path = path;
    this.#verify = verify;
  }

  get name() {
    return this.#path;
  }

  async readManifest(name, most) {
    const path = join(this.#path, name);
    if (!existsSync(path)) {
      throw new BundleError(
        `${this.#path} is not a bundle: it has no ${name}. If it is a checkpoint, export it: ` +
          `florence-export ${this.#path} --output BUNDLE.`,
      );
    }
    if (statSync(path).size > most) {
      throw new BundleError(`${path} has more than ${most} bytes. Copy the bundle again.`);
    }
    return readFile(path);
  }

  /** A file's bytes; they are those of the manifest. */
  async read(name, stored) {
    return readFile(await this.open(name, stored));
  }

  /** What opens a file: its path, once its content is the manifest's. */
  async open(name, stored) {
    const path = join(this.#path, name);
    if (!existsSync(path)) {
      throw new BundleError(
        `${this.#path} lacks ${name}, which its manifest lists. Copy the whole folder, or export ` +
          "the bundle again.",
      );
    }
    const { size } = statSync(path);
    if (size !== stored.bytes) {
      throw new BundleError(
        `${path} has ${size} bytes, expected ${stored.bytes}: it was changed or cut short. Copy it ` +
          "again, or export the bundle again.",
      );
    }
    if (this.#verify && (await this.#hash(path)) !== stored.sha256) {
      throw new BundleError(
        `${path} is not what was exported: its content was changed. Copy it again, or export the ` +
          "bundle again.",
      );
    }
    return path;
  }

  /** Nothing to do: it is on the disk. */
  async keep() {}

  async #hash(path) {
    const digest = createHash("sha256");
    for await (const block of createReadStream(path, { highWaterMark: 1 << 22 })) {
      digest.update(block);
    }
    return digest.digest("hex");
  }
}
