/**
 * The 15 tasks in people's words, and a question of one's own.
 *
 * `takes` is that of `florence_edge.tasks` (tests/serve/browser compares them): what a task wants
 * beside the picture.
 */

export const OWN_WORDS = "OWN_WORDS";

const task = (name, title, about, takes = "nothing", example = "") => ({
  name, title, about, takes, example,
});

/** [heading, tasks] in the order of the page. */
export const TASK_GROUPS = [
  ["Describe", [
    task("CAPTION", "Caption", "One sentence about the picture."),
    task("DETAILED_CAPTION", "Detailed", "A few sentences about the picture."),
    task("MORE_DETAILED_CAPTION", "Paragraph", "A paragraph about everything in the picture."),
  ]],
  ["Detect", [
    task("OD", "Objects", "Boxes around objects, with their class names."),
    task("DENSE_REGION_CAPTION", "Described", "Boxes around objects, each with a short description."),
    task("REGION_PROPOSAL", "Proposals", "Boxes around whatever stands out, without names."),
  ]],
  ["Find", [
    task("CAPTION_TO_PHRASE_GROUNDING", "Phrases", "A box for each phrase of your sentence.", "text",
      "a red circle and a blue square"),
    task("OPEN_VOCABULARY_DETECTION", "By name", "Boxes around what you name.", "text", "red circle"),
    task("REFERRING_EXPRESSION_SEGMENTATION", "Outline", "The outline of what you describe.", "text",
      "red circle"),
  ]],
  ["Read", [
    task("OCR", "Text", "The words in the picture."),
    task("OCR_WITH_REGION", "Text and places", "The words in the picture, each with its place."),
  ]],
  ["Region", [
    task("REGION_TO_CATEGORY", "Category", "The class of what is in your rectangle.", "region"),
    task("REGION_TO_DESCRIPTION", "Description", "A description of what is in your rectangle.",
      "region"),
    task("REGION_TO_OCR", "Text", "The words in your rectangle.", "region"),
    task("REGION_TO_SEGMENTATION", "Outline", "The outline of what is in your rectangle.", "region"),
  ]],
  ["Ask", [
    task(OWN_WORDS, "Own words", "A prompt passed to the model as it is, for fine-tuned models.",
      "text", "What colour is the car?"),
  ]],
];

/** A task of the model's own, as GET /v1/info has it under `own_tasks`. */
export const ownTask = ({ task: name, title, hint, takes }) => task(name, title, hint, takes);

/** The tasks by name. */
export const TASKS = new Map(
  TASK_GROUPS.flatMap(([, tasks]) => tasks.map((each) => [each.name, each])),
);

/**
 * What the server is to answer, or null while something is missing.
 *
 * @param name of a task, or OWN_WORDS
 * @param text what was typed
 * @param region [left, top, right, bottom] in pixels, or null
 */
export function questionOf(name, text, region) {
  const chosen = TASKS.get(name);
  const typed = text.trim();
  if (chosen.takes === "text" && !typed) return null;
  if (chosen.takes === "region" && !region) return null;
  if (name === OWN_WORDS) return { prompt: typed };
  if (chosen.takes === "text") return { task: name, text: typed };
  if (chosen.takes === "region") return { task: name, region };
  return { task: name };
}
