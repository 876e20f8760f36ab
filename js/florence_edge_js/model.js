/**
 * The model: a bundle on an engine, and what it answers about pictures.
 *
 *     const model = await Florence2.load("https://example.org/bundle/");
 *     await model.run(picture, "OD")                    one picture, one task
 *     await model.run([one, other], "OD")               several pictures, as one batch
 *     await model.run(picture, ["OD", "CAPTION"])       several tasks, one encoding
 *     const view = await model.encode(picture)          what `EncodedImage` is asked then
 *
 * Names of methods, arguments and fields are Python's (model.py).
 */

import { Bundle } from "./bundle.js";
import { WebFolder } from "./download.js";
import { EngineLock } from "./engine_lock.js";
import { RequestError } from "./errors.js";
import { generateEach, stopAfter } from "./generate.js";
import { MAX_PIXELS } from "./image.js";
import { checkNames, resolve, shown } from "./options.js";
import { importOrt, openOrt } from "./ort.js";
import { Timer, prepareImages, promptIds, readHypothesis } from "./processing.js";
import { checkConvention } from "./regions.js";
import { findTasks, freePrompt, promptsFor } from "./tasks.js";
import { strip } from "./text.js";
import { Tokenizer } from "./tokenizer.js";

const CAPTION_TASKS = { 1: "CAPTION", 2: "DETAILED_CAPTION", 3: "MORE_DETAILED_CAPTION" };

/** What may stand beside a task, and beside a prompt of one's own. */
const HOW = ["options", "signal", "cancel", "on_text"];
const QUESTION = ["text", "region", ...HOW];
const ENCODING = ["options", "signal"];
const LOADING = [
  "ort",
  "device",
  "convention",
  "threads",
  "max_pixels",
  "verify",
  "cache",
  "signal",
  "on_progress",
];

/**
 * Florence-2 on one engine; `Florence2.load` opens it, `close` frees it.
 *
 * Calls may overlap: they run one after the other.
 */
export class Florence2 {
  #backend;
  #tokenizer;
  #maxPixels;
  #lock = new EngineLock();

  constructor(bundle, backend, tokenizer, { convention, max_pixels }) {
    this.bundle = bundle;
    this.convention = convention;
    this.#backend = backend;
    this.#tokenizer = tokenizer;
    this.#maxPixels = max_pixels;
  }

  /**
   * Open the bundle at an address, or in node in a folder.
   *
   * @param {string | URL} source
   * @param wanted `ort`: the package onnxruntime-web or -node (left out, the installed one);
   *   `device` "cpu" or "webgpu"; `convention` "native" gives the whole-number coordinates of
   *   transformers, "microsoft" the fractions of the original code; `threads` of one operator;
   *   pictures of more than `max_pixels` are refused; unless `verify` is false, every file is
   *   compared with its hash; unless `cache` is false, the browser keeps them; `signal` ends the
   *   download; `on_progress` is called with {file, loaded, total} in bytes
   * @throws {BundleError} there is no bundle, or it is damaged or of another contract version
   * @throws {BackendError} the engine did not become active, or does not fit the bundle
   * @throws {RequestError} a device, a convention or another argument does not exist
   */
  static async load(source, wanted = {}) {
    checkNames(wanted, LOADING);
    const { ort: given, device, threads, signal, on_progress } = wanted;
    const { convention = "native", max_pixels = MAX_PIXELS, verify = true, cache = true } = wanted;
    checkConvention(convention);
    const folder = await openFolder(source, { verify, cache, signal, on_progress });
    const bundle = await Bundle.load(folder);
    const ort = await importOrt(given);
    const tokenizer = new Tokenizer(await bundle.tokenizer(), bundle.generation);
    const backend = await openOrt(bundle, ort, { device, threads });
    await folder.keep();
    return new Florence2(bundle, backend, tokenizer, { convention, max_pixels });
  }

  /**
   * Answer one task or several about one picture or several; lists give lists.
   *
   * @param image {width, height, data}, and in a browser what a canvas draws (`loadImage`); a list
   *   is one batch, and each answer what the picture gets alone
   * @param task `OD`, `<OD>`, or a list
   * @param question `text` or `region` for tasks that take one (with several pictures also a list);
   *   `options` (GenerationOptions); `signal` ends it with an AbortError; `cancel`, another
   *   AbortSignal, ends the answer as it is by then, `truncated`; `on_text` is called with each new
   *   piece of one answer, none of which is taken back
   * @returns {Promise<Result | Result[] | Result[][]>}
   * @throws {ImageError} a picture cannot be read
   * @throws {RequestError} a task does not exist, or text, region or options do not fit
   */
  async run(image, task, question = {}) {
    checkNames(question, QUESTION);
    const many = Array.isArray(image);
    const several = Array.isArray(task);
    if (question.on_text && (many || several)) {
      throw new RequestError("on_text needs one picture and one task, not lists of them.");
    }
    const given = many ? givenEach(question, image.length) : [question];
    const asked = findTasks(task, this.bundle.tasks);
    given.forEach((each) => promptsFor(asked, each, WHOLE)); // before anything is encoded
    const views = await this.encode(many ? image : [image], encodingOf(question));
    const prompts = views.map((view, at) => promptsFor(asked, given[at], view.size));
    const columns = [];
    for (let column = 0; column < (prompts[0]?.length ?? 0); column += 1) {
      columns.push(
        await this.answer(
          views,
          prompts.map((row) => row[column]),
          question,
        ),
      );
    }
    const rows = views.map((_, at) => columns.map((answers) => answers[at]));
    const results = several ? rows : rows.map(([result]) => result);
    return many ? results : results[0];
  }

  /** Answer a prompt in the user's own words (VQA and other fine-tunes). */
  async ask(image, prompt, how = {}) {
    checkNames(how, HOW);
    freePrompt(prompt);
    return (await this.encode(image, encodingOf(how))).ask(prompt, how);
  }

  /**
   * Run the vision encoder once; the view answers any number of tasks about the picture.
   *
   * Several pictures are encoded in one run, and give a list. `options` hold for questions that
   * bring none of their own.
   */
  async encode(image, how = {}) {
    checkNames(how, ENCODING);
    const { options, signal } = how;
    const images = Array.isArray(image) ? image : [image];
    this.generation_config(options); // what cannot be generated should not cost an encoding
    signal?.throwIfAborted();
    if (images.length === 0) return [];
    const timer = new Timer();
    const side = this.bundle.size.image_size;
    const { pixels, sizes } = await timer.stage("image", () =>
      prepareImages(images, side, this.#maxPixels),
    );
    const features = await this.#lock.held(() => {
      signal?.throwIfAborted();
      return timer.stage("vision", () => this.#backend.encodeImage(pixels, images.length));
    });
    const seconds = timer.share(images.length);
    const views = sizes.map(
      (size, at) => new EncodedImage(this, { size, features: features[at], options, seconds }),
    );
    return Array.isArray(image) ? views : views[0];
  }

  /**
   * Answer one prompt about each view, as one batch; a view may stand there several times.
   *
   * Each answer has its share of the batch's seconds.
   */
  async answer(views, prompts, { options, signal, cancel, on_text } = {}) {
    if (views.length === 0) return [];
    const chosen = options ?? views[0].options;
    const config = this.generation_config(chosen);
    const { size } = this.bundle;
    const inputIds = prompts.map((prompt) => promptIds(prompt, this.#tokenizer, size));
    return this.#lock.held(async () => {
      signal?.throwIfAborted();
      const timer = new Timer();
      const stop = stopAfter(chosen?.max_time, cancel);
      const decoder = await timer.stage("prefill", () =>
        this.#backend.prefill(
          views.map((view) => view.features),
          inputIds,
          {
            beams: config.num_beams,
            pad: this.bundle.generation.pad_token_id,
          },
        ),
      );
      const onTokens = on_text ? this.#tokenizer.streamer(on_text) : null;
      const asked = views.map(() => ({ config, stop, onTokens }));
      const hypotheses = await timer.stage("decode", () => generateEach(decoder, asked, signal));
      return this.#read(hypotheses, views, prompts, { config, timer });
    });
  }

  /** Options with all filled in that they leave to the checkpoint. */
  generation_config(options) {
    this.#lock.checkOpen();
    return resolve(options, this.bundle.generation, this.bundle.size);
  }

  /** Free the engine, after what was asked already; what is asked then is a BackendError. */
  close() {
    return this.#lock.close(() => this.#backend.close());
  }

  async #read(hypotheses, views, prompts, { config, timer }) {
    const read = await timer.stage("parse", () =>
      hypotheses.map((hypothesis, at) =>
        readHypothesis(
          hypothesis,
          prompts[at],
          { tokenizer: this.#tokenizer, config },
          {
            image_size: views[at].size,
            convention: this.convention,
          },
        ),
      ),
    );
    const shares = timer.share(views.length);
    return read.map((result, at) => result.timed({ ...views[at].seconds, ...shares }));
  }
}

/** A picture of the largest size: what is asked of it fits, if it fits any. */
const WHOLE = [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];

/**
 * A picture with its image features: ask it as many tasks as you like.
 *
 * Every question takes `options`, `signal`, `cancel` and `on_text` as `Florence2.run` does; the view's
 * `options` hold for those that bring none of their own.
 */
export class EncodedImage {
  constructor(model, { size, features, options, seconds }) {
    Object.assign(this, { model, size, options, seconds });
    Object.defineProperty(this, "features", { value: features }); // megabytes, not to be printed
    Object.freeze(this);
  }

  /** Answer one of the 15 tasks; the arguments are those of `Florence2.run`. */
  async run(task, question = {}) {
    checkNames(question, QUESTION);
    const prompts = promptsFor(findTasks(task, this.model.bundle.tasks), question, this.size);
    if (!Array.isArray(task)) return (await this.model.answer([this], prompts, question))[0];
    if (question.on_text) {
      throw new RequestError("on_text needs one picture and one task, not lists of them.");
    }
    const results = [];
    for (const prompt of prompts)
      results.push(...(await this.model.answer([this], [prompt], question)));
    return results;
  }

  /** Answer a prompt in the user's own words (VQA and other fine-tunes). */
  async ask(prompt, how = {}) {
    checkNames(how, HOW);
    return (await this.model.answer([this], [freePrompt(prompt)], how))[0];
  }

  /** Describe the picture: 1 in a sentence, 2 in detail, 3 in a paragraph. */
  async caption(detail = 1, how = {}) {
    if (!Object.keys(CAPTION_TASKS).includes(String(detail))) {
      throw new RequestError(`detail is ${shown(detail)}; it must be 1, 2 or 3.`);
    }
    return this.#answer(CAPTION_TASKS[detail], {}, how);
  }

  /** Find objects: all that the model knows, or those that `phrases` name. */
  async detect(phrases = null, how = {}) {
    if (phrases === null) return this.#answer("OD", {}, how);
    const named = Array.isArray(phrases) ? phrases : [phrases];
    if (named.length === 0) {
      throw new RequestError("detect got no phrase. Name what to find, or leave phrases out.");
    }
    if (!named.every((phrase) => typeof phrase === "string" && strip(phrase))) {
      throw new RequestError(`detect got ${shown(phrases)}; each phrase must be a text.`);
    }
    return this.#answer("OPEN_VOCABULARY_DETECTION", { text: named.join("<and>") }, how);
  }

  /** Find the things that a caption speaks of. */
  async ground(caption, how = {}) {
    return this.#answer("CAPTION_TO_PHRASE_GROUNDING", { text: caption }, how);
  }

  /** Outline what a phrase refers to, or what lies in a region, which may stand in `how`, too. */
  async segment(what = null, question = {}) {
    checkNames(question, [...HOW, "region"]);
    const { region = null, ...how } = question;
    if ((what === null) === (region === null)) {
      throw new RequestError("segment() needs a phrase or a region, one of the two.");
    }
    return typeof what === "string"
      ? this.#answer("REFERRING_EXPRESSION_SEGMENTATION", { text: what }, how)
      : this.#answer("REGION_TO_SEGMENTATION", { region: what ?? region }, how);
  }

  /** Read the text of the whole picture; with `regions`, where each piece of it stands. */
  async ocr(regions = false, how = {}) {
    if (typeof regions !== "boolean") {
      throw new RequestError(`regions is ${shown(regions)}; it must be true or false.`);
    }
    return this.#answer(regions ? "OCR_WITH_REGION" : "OCR", {}, how);
  }

  /** Read the text in a region. */
  async read(region, how = {}) {
    return this.#answer("REGION_TO_OCR", { region }, how);
  }

  /** Describe what lies in a region. */
  async describe(region, how = {}) {
    return this.#answer("REGION_TO_DESCRIPTION", { region }, how);
  }

  /** Name the category of what lies in a region. */
  async categorize(region, how = {}) {
    return this.#answer("REGION_TO_CATEGORY", { region }, how);
  }

  /** Propose regions that hold something, without naming it. */
  async propose(how = {}) {
    return this.#answer("REGION_PROPOSAL", {}, how);
  }

  /** Find objects and describe each. */
  async dense_captions(how = {}) {
    return this.#answer("DENSE_REGION_CAPTION", {}, how);
  }

  #answer(task, given, how) {
    checkNames(how, HOW);
    return this.run(task, { ...how, ...given });
  }
}

/** An address is fetched; in node anything else is a folder. */
async function openFolder(source, wanted) {
  const inNode = typeof process === "object" && Boolean(process.versions?.node);
  const text = String(source);
  if (inNode && !/^https?:/u.test(text)) {
    const { DiskFolder } = await import("#disk"); // package.json: disk.js in node, else no_disk.js
    return DiskFolder.open(text, wanted);
  }
  const url = new URL(text.endsWith("/") ? text : `${text}/`, globalThis.location?.href);
  return WebFolder.open(url, wanted);
}

/** What of a question concerns the encoding. */
function encodingOf({ options, signal }) {
  return { options, signal };
}

/** `text` and `region` of each picture: one for all, or a list with one for each. */
function givenEach({ text, region }, images) {
  const each = (name, value, forAll) => {
    if (value == null || forAll) return new Array(images).fill(value);
    if (!Array.isArray(value) || value.length !== images) {
      throw new RequestError(
        `${name} must be one for all of the ${images} images, or a list with one for each.`,
      );
    }
    return value;
  };
  const numbers = region != null && [...region].every((edge) => typeof edge === "number");
  const texts = each("text", text, typeof text === "string");
  const regions = each("region", region, numbers);
  return texts.map((one, at) => ({ text: one, region: regions[at] }));
}
