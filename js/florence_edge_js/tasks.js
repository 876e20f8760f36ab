/**
 * The 15 tasks of Florence-2, one table; and prompts: a task with what goes with it.
 *
 * Prompts and answer kinds are those of tasks.py (tests/js compares them): punctuation matters.
 */

import { RequestError } from "./errors.js";
import { shown } from "./options.js";
import { checkRegion, isLocationText, locationTokens } from "./regions.js";
import { strip } from "./text.js";

/** How the text of an answer is read; values are Hugging Face's names. */
export const AnswerKind = Object.freeze({
  PURE_TEXT: "pure_text",
  QUADS: "ocr",
  BOXES_WITH_LABELS: "description_with_bboxes",
  BOXES: "bboxes",
  PHRASES: "phrase_grounding",
  POLYGONS: "polygons",
  BOXES_OR_POLYGONS: "description_with_bboxes_or_polygons",
});

/** One task: its marker, the English prompt behind it, and how its answer is read. */
export class Task {
  /**
   * @param {string} token such as `<OD>`
   * @param {string} template the prompt, with {input} where a text or a region goes
   * @param {string} answer one of AnswerKind
   * @param {"nothing" | "text" | "region"} needs what it takes beside the picture
   */
  constructor(token, template, answer, needs = "nothing") {
    Object.assign(this, { token, template, answer, needs });
    Object.freeze(this);
  }

  /** The marker without its brackets, e.g. `OD`. */
  get name() {
    return this.token.slice(1, -1);
  }

  /** The English prompt; white space around `text` is stripped, as transformers does. */
  prompt(text) {
    const input = strip(text ?? "");
    if (this.needs === "nothing") {
      if (!input) return this.template;
      throw new RequestError(`${this.token} takes no text, but got ${shown(input)}. Leave it out.`);
    }
    if (!input) {
      const wanted = this.needs === "region" ? "a region" : "a text";
      throw new RequestError(`${this.token} needs ${wanted}. ${HOW_TO_GIVE[this.needs]}`);
    }
    // As Python's str.format: doubled braces are braces.
    const written = { "{{": "{", "}}": "}", "{input}": input };
    return this.template.replace(/\{\{|\}\}|\{input\}/gu, (part) => written[part]);
  }
}

const HOW_TO_GIVE = {
  text: "Pass {text: '...'}.",
  region:
    "Pass {region: [x1, y1, x2, y2]} in pixels, a RelativeBox in fractions, or " +
    "{text: '<loc_x1><loc_y1><loc_x2><loc_y2>'}.",
};

const TABLE = [
  new Task("<CAPTION>", "What does the image describe?", AnswerKind.PURE_TEXT),
  new Task(
    "<DETAILED_CAPTION>",
    "Describe in detail what is shown in the image.",
    AnswerKind.PURE_TEXT,
  ),
  new Task(
    "<MORE_DETAILED_CAPTION>",
    "Describe with a paragraph what is shown in the image.",
    AnswerKind.PURE_TEXT,
  ),
  new Task("<OCR>", "What is the text in the image?", AnswerKind.PURE_TEXT),
  new Task("<OCR_WITH_REGION>", "What is the text in the image, with regions?", AnswerKind.QUADS),
  new Task(
    "<OD>",
    "Locate the objects with category name in the image.",
    AnswerKind.BOXES_WITH_LABELS,
  ),
  new Task(
    "<DENSE_REGION_CAPTION>",
    "Locate the objects in the image, with their descriptions.",
    AnswerKind.BOXES_WITH_LABELS,
  ),
  new Task("<REGION_PROPOSAL>", "Locate the region proposals in the image.", AnswerKind.BOXES),
  new Task(
    "<CAPTION_TO_PHRASE_GROUNDING>",
    "Locate the phrases in the caption: {input}",
    AnswerKind.PHRASES,
    "text",
  ),
  new Task(
    "<OPEN_VOCABULARY_DETECTION>",
    "Locate {input} in the image.",
    AnswerKind.BOXES_OR_POLYGONS,
    "text",
  ),
  new Task(
    "<REFERRING_EXPRESSION_SEGMENTATION>",
    "Locate {input} in the image with mask",
    AnswerKind.POLYGONS,
    "text",
  ),
  new Task(
    "<REGION_TO_SEGMENTATION>",
    "What is the polygon mask of region {input}",
    AnswerKind.POLYGONS,
    "region",
  ),
  new Task("<REGION_TO_CATEGORY>", "What is the region {input}?", AnswerKind.PURE_TEXT, "region"),
  new Task(
    "<REGION_TO_DESCRIPTION>",
    "What does the region {input} describe?",
    AnswerKind.PURE_TEXT,
    "region",
  ),
  new Task(
    "<REGION_TO_OCR>",
    "What text is in the region {input}?",
    AnswerKind.PURE_TEXT,
    "region",
  ),
];

/** The 15 tasks by name, such as `OD`. */
export const TASKS = Object.freeze(Object.fromEntries(TABLE.map((task) => [task.name, task])));

/**
 * The task called `name`, written `OD`, `od` or `<OD>`; `own` are those of a bundle.
 *
 * @throws {RequestError} there is no such task; the message lists those there are
 */
export function findTask(name, own = []) {
  if (name instanceof Task) return name;
  if (typeof name !== "string") {
    throw new RequestError(`A task is expected as a string such as 'OD', got ${shown(name)}.`);
  }
  const key = strip(name).replace(/^</u, "").replace(/>$/u, "").toUpperCase();
  const known = [...TABLE, ...own];
  const found = known.find((task) => task.name.toUpperCase() === key);
  if (found) return found;
  const names = known.map((task) => task.name).join(", ");
  throw new RequestError(`There is no task ${shown(name)}. The tasks are: ${names}.`);
}

/** Tasks as they were given, but by their names: one, or a list. */
export function findTasks(tasks, own) {
  return Array.isArray(tasks) ? tasks.map((task) => findTask(task, own)) : findTask(tasks, own);
}

/** A task for a prompt that is passed through as it is (VQA and other fine-tunes). */
export function freeTask(text) {
  return new Task(text, text, AnswerKind.PURE_TEXT);
}

/**
 * What is asked about one picture.
 *
 * @typedef {{task: Task, text_input: string | null, wording: string}} Prompt `text_input` goes with
 *   the task, `wording` are the English words that the text encoder reads
 */

/**
 * Check and put together a question about a picture.
 *
 * @param task a Task, `OD` or `<OD>`
 * @param {{text?: string, region?: Iterable<number>}} given for tasks that take one
 * @param {[number, number]} imageSize width and height of the picture that is asked about
 * @returns {Prompt}
 * @throws {RequestError} an unknown task, or too little or too much beside it
 */
export function promptFor(task, { text = null, region = null }, imageSize) {
  const asked = findTask(task);
  const { token, needs } = asked;
  let input = text;
  if (text !== null && typeof text !== "string") {
    throw new RequestError(`The text for ${token} is ${shown(text)}, expected a string.`);
  }
  if (region !== null) {
    if (needs !== "region")
      throw new RequestError(`${token} takes no region. Leave the region out.`);
    if (text !== null) {
      throw new RequestError(`${token} got a text and a region. Give the region in one way only.`);
    }
    checkRegion(region);
    input = locationTokens(region, imageSize);
  } else if (needs === "region" && text !== null && !isLocationText(text)) {
    throw new RequestError(
      `${token} needs a region, but got the text ${shown(text)}. Pass {region: [x1, y1, x2, y2]} in ` +
        "pixels, or a text of four tokens <loc_0> to <loc_999>.",
    );
  }
  return { task: asked, text_input: input, wording: asked.prompt(input) };
}

/**
 * A question in the user's own words, passed through as it is.
 *
 * @returns {Prompt}
 * @throws {RequestError} the prompt is empty
 */
export function freePrompt(prompt) {
  if (typeof prompt !== "string" || !strip(prompt)) {
    throw new RequestError("The prompt is empty. Write what you want to know, or name a task.");
  }
  return { task: freeTask(prompt), text_input: null, wording: prompt };
}

/**
 * The prompts of several tasks about one picture: the text goes to those that take one, and so does
 * the region.
 *
 * @throws {RequestError} as `promptFor`, or none of them takes what was given
 */
export function promptsFor(tasks, given, imageSize) {
  if (!Array.isArray(tasks)) return [promptFor(tasks, given, imageSize)];
  const named = findTasks(tasks);
  if (named.length === 0) throw new RequestError("No task is named. Give one or more, such as OD.");
  if (named.length === 1) return [promptFor(named[0], given, imageSize)];
  const needs = new Set(named.map((task) => task.needs));
  for (const kind of ["text", "region"]) {
    if (given[kind] != null && !needs.has(kind)) {
      const names = named.map((task) => task.token).join(", ");
      throw new RequestError(`None of ${names} takes a ${kind}. Leave the ${kind} out.`);
    }
  }
  return named.map((task) => {
    const text = task.needs === "text" ? given.text : null;
    const region = task.needs === "region" ? given.region : null;
    return promptFor(task, { text, region }, imageSize);
  });
}
