/**
 * Read the text of an answer: the regions it mentions, and Hugging Face's dictionary of them.
 *
 * The grammar and its oddities are parse.py's, which says where they come from; tests/js has both
 * read the same texts. No text is an error: what cannot be read is not found.
 *
 *     labelled boxes      car<loc_1><loc_2><loc_3><loc_4>          more boxes: the next four, ...
 *     bare boxes          <loc_1><loc_2><loc_3><loc_4>             the next four, ...
 *     labelled quads      STOP<loc_1>...<loc_8>
 *     polygons            <loc_1><loc_2>...<sep><loc_1><loc_2>...  rings of one thing
 *     several things      <poly>ring<sep>ring</poly><poly>ring</poly>
 *     labelled polygons   the same, after a label
 *
 * A span is [start, end] in UTF-16 units of a text. A mention is one thing in a text: {shape, label,
 * labelSpan (empty without a label), locationSpans (one a ring)}.
 */

import { checkConvention, checkImageSize, dequantize } from "./regions.js";
import { AnswerKind, TASKS, Task, freeTask } from "./tasks.js";
import { asciiDigits, lstrip, rstrip, strip } from "./text.js";

const LOCATION = /<loc_(\p{Nd}+)>/gu;
const OUTLINE_PART = /<(?:loc_\p{Nd}+|sep|poly|\/poly)>/gu;
const CUT_OFF_POLYGON_LABEL = {
  native: /^<loc_\p{Nd}+>/u,
  microsoft: /^loc_\p{Nd}+>/u, // meant the same, but lost its bracket
};

// The originals put numbers into int64, and fail on a text with a larger one that they use: here,
// its region is not found. Python itself reads no number of more digits than this.
const LARGEST_NUMBER = 2n ** 63n - 1n;
const MOST_DIGITS = 4300;

/** Phrases that grounding leaves out; compared as written, capitals included. */
const NOT_GROUNDED = new Set(
  `I, me, mine, myself, we, us, our, ours, ourselves, you, your, yours, yourself, yourselves, he,
  him, his, himself, she, her, hers, herself, it, its, itself, one, oneself, they, them, their,
  theirs, themselves, this, that, these, those, who, whom, whose, which, what, all, another, any,
  anybody, anyone, anything, each, each other, one another, everybody, everyone, everything, few,
  many, nobody, none, several, some, somebody, someone, something, a, an, the, image, images,
  the image, a group, a set, lots, other objects`
    .split(",")
    .map((phrase) => phrase.trim()),
);

/** The things that a text without markers mentions, in order. */
function findMentions(kind, text, convention, asPolygons) {
  switch (kind) {
    case AnswerKind.PURE_TEXT:
      return [];
    case AnswerKind.QUADS:
      return labelledQuads(text, convention);
    case AnswerKind.BOXES:
      return bareBoxes(text);
    case AnswerKind.PHRASES:
      return labelledBoxes(text, NOT_GROUNDED);
    case AnswerKind.POLYGONS:
      return barePolygons(text, convention);
    case AnswerKind.BOXES_OR_POLYGONS:
      return asPolygons ? labelledPolygons(text, convention) : labelledBoxes(text);
    default:
      return labelledBoxes(text);
  }
}

/** The tags of one kind in a text, or a part of it, in order; those that touch make a run. */
class Tags {
  constructor(tag, text, [start, end] = [0, text.length]) {
    this.spans = Array.from(text.slice(start, end).matchAll(tag), (found) => {
      const at = start + found.index;
      return [at, at + found[0].length];
    });
    // For each tag, the index behind the last of its run.
    this.runEnds = new Array(this.spans.length).fill(this.spans.length);
    for (let i = this.spans.length - 2; i >= 0; i -= 1) {
      const touch = this.spans[i][1] === this.spans[i + 1][0];
      this.runEnds[i] = touch ? this.runEnds[i + 1] : i + 1;
    }
  }

  /** The indices [first, behind the last] of each run. */
  *runs() {
    for (let first = 0; first < this.spans.length; first = this.runEnds[first]) {
      yield [first, this.runEnds[first]];
    }
  }

  /** The characters of tags that touch. */
  span(first, stop) {
    return [this.spans[first][0], this.spans[stop - 1][1]];
  }
}

/** The originals' `(.+?)` and eight locations; a label may hold anything but a line break. */
function* labelledQuads(text, convention) {
  const tags = new Tags(LOCATION, text);
  let at = 0;
  let first = 0;
  while (first < tags.spans.length) {
    const [start] = tags.spans[first];
    if (tags.runEnds[first] - first < 8) {
      first = tags.runEnds[first];
      continue;
    }
    const label = [Math.max(at, lastBefore(text, "\n", at, start) + 1), start];
    if (label[0] === start) {
      at = start; // no label: the first location becomes that of the next ones
      first += 1;
      continue;
    }
    const locations = tags.span(first, first + 8);
    at = locations[1];
    first += 8;
    const kept = convention === "native" ? trimmed(text, label) : label;
    yield mention("quad", text.slice(...kept), kept, [locations]);
  }
}

/** Four locations each; what is left over is lost. */
function boxesOf(tags, [start, stop]) {
  const boxes = [];
  for (let first = start; first + 4 <= stop; first += 4) boxes.push(tags.span(first, first + 4));
  return boxes;
}

function* bareBoxes(text) {
  const tags = new Tags(LOCATION, text);
  for (const run of tags.runs()) {
    for (const box of boxesOf(tags, run)) yield mention("box", "", [box[0], box[0]], [box]);
  }
}

/**
 * The originals' `[^<]+` and four tags or more: where the label begins, and the run behind it.
 *
 * Where nothing stands before a run, the end of its first tag (`loc_1>`) is the label of the rest.
 */
function* labelledRuns(text, tags) {
  let at = 0;
  let first = 0;
  while (first < tags.spans.length) {
    const [start] = tags.spans[first];
    const stop = tags.runEnds[first];
    if (stop - first < 4) {
      first = stop;
    } else if (start === at || text[start - 1] === "<") {
      first += 1;
    } else {
      yield { start: Math.max(at, lastBefore(text, "<", at, start) + 1), run: [first, stop] };
      at = tags.spans[stop - 1][1];
      first = stop;
    }
  }
}

function* labelledBoxes(text, unwanted = new Set()) {
  const tags = new Tags(LOCATION, text);
  for (const { start, run } of labelledRuns(text, tags)) {
    const span = labelSpan(text, start, tags.span(...run)[1]);
    if (span === null || unwanted.has(text.slice(...span))) continue;
    // Labels of boxes lose all beyond ASCII; those of quads and polygons keep it.
    const label = text.slice(...span).replace(/[^\x00-\x7f]/gu, "");
    for (const box of boxesOf(tags, run)) yield mention("box", label, span, [box]);
  }
}

function* barePolygons(text, convention) {
  const tags = new Tags(OUTLINE_PART, text);
  for (const run of tags.runs()) {
    if (run[1] - run[0] >= 4) yield* polygons(text, tags.span(...run), convention);
  }
}

function* labelledPolygons(text, convention) {
  const tags = new Tags(OUTLINE_PART, text);
  for (const { start, run } of labelledRuns(text, tags)) {
    yield* polygons(text, [start, tags.span(...run)[1]], convention);
  }
}

function* polygons(text, [start, end], convention) {
  const cut = CUT_OFF_POLYGON_LABEL[convention].exec(text.slice(start, end));
  const label = labelSpan(text, cut ? start + cut[0].length : start, end);
  if (label === null) return;
  const name = text.slice(...label);
  for (const thing of enclosed(text, start, end)) {
    const rings = [...ringsOf(text, thing)];
    if (rings.length > 0) yield mention("polygon", name, label, rings);
  }
}

/** Locations up to <sep> or the end; those that run into <poly> or </poly> are lost. */
function* ringsOf(text, thing) {
  const tags = new Tags(LOCATION, text, thing);
  for (const run of tags.runs()) {
    const span = tags.span(...run);
    if (span[1] === thing[1] || text.startsWith("<sep>", span[1])) yield span;
  }
}

function* enclosed(text, start, end) {
  let opened = findIn(text, "<poly>", start, end);
  if (opened < 0 || findIn(text, "</poly>", start, end) < 0) {
    yield [start, end]; // a single thing needs no enclosure; a truncated one has no end
    return;
  }
  while (opened >= 0) {
    const closed = findIn(text, "</poly>", opened, end);
    if (closed < 0) return;
    yield [opened + "<poly>".length, closed];
    opened = findIn(text, "<poly>", closed, end);
  }
}

/**
 * What stands before the first location or <poly>; null without one.
 *
 * A label with a line break inside is none, and its regions are lost, as the originals lose them.
 */
function labelSpan(text, start, end) {
  const found = ["<loc_", "<poly>"].map((tag) => findIn(text, tag, start, end));
  const tags = found.filter((at) => at >= 0);
  if (tags.length === 0) return null;
  const stop = Math.min(...tags);
  if (lstrip(text.slice(start, stop)).includes("\n")) return null;
  return trimmed(text, [start, stop]);
}

function trimmed(text, [start, end]) {
  const last = start + rstrip(text.slice(start, end)).length;
  return [last - lstrip(text.slice(start, last)).length, last];
}

function mention(shape, label, label_, locationSpans) {
  return { shape, label, labelSpan: label_, locationSpans };
}

/** Where `part` first stands in text[from:to]; -1 where it does not. */
function findIn(text, part, from, to) {
  const at = text.indexOf(part, from);
  return at >= 0 && at + part.length <= to ? at : -1;
}

/** Where a character last stands in text[from:to]; -1 where it does not. */
function lastBefore(text, character, from, to) {
  const at = to > from ? text.lastIndexOf(character, to - 1) : -1;
  return at >= from ? at : -1;
}

/**
 * Read an answer, generated anywhere, as the processors of Florence-2 do.
 *
 * @param task a task (`OD` or `<OD>`); any other text is a free prompt, answered by plain text
 * @param {string} rawText the decoded answer with its special tokens
 * @param {[number, number]} imageSize width and height of the original picture in pixels
 * @param convention `native` gives transformers' whole numbers, `microsoft` the original's fractions
 * @returns `{"<OD>": {bboxes: [[x1, y1, x2, y2], ...], labels: [...]}}`, `{"<CAPTION>": "..."}`
 * @throws {RequestError} the convention or the image size is impossible; no text throws
 */
export function parse(task, rawText, { image_size: imageSize, convention = "native" }) {
  checkConvention(convention);
  checkImageSize(imageSize);
  const asked = taskOrFreePrompt(task);
  if (asked.answer === AnswerKind.PURE_TEXT)
    return { [asked.token]: plainText(rawText, convention) };
  const found = findRegions(asked.answer, rawText, imageSize, convention);
  return { [asked.token]: hfFromRegions(asked.answer, found) };
}

/** The answer as words: no start and end markers; the native convention also strips it. */
export function plainText(rawText, convention) {
  const { text } = withoutMarkers(rawText, removedMarkers(AnswerKind.PURE_TEXT, convention));
  return convention === "native" ? strip(text) : text;
}

/** The special tokens that are taken out of a text before it is read, in this order. */
function removedMarkers(kind, convention) {
  if (kind === AnswerKind.PURE_TEXT) return ["<s>", "</s>"];
  // Microsoft's leave </s> in, which is why the first label usually begins with it.
  if (kind === AnswerKind.QUADS && convention === "microsoft") return ["<s>"];
  return ["<s>", "</s>", "<pad>"];
}

/**
 * All regions that a text mentions, in order; none in an answer of plain text.
 *
 * @returns {{label: string, shape: string, rings: number[][], label_span: [number, number],
 *   location_spans: [number, number][]}[]} with the characters of the raw text that say so
 */
export function findRegions(kind, rawText, imageSize, convention) {
  const cleaned = withoutMarkers(rawText, removedMarkers(kind, convention));
  // Asked of the raw text, and for all of it: an answer holds boxes or polygons, never both.
  const asPolygons = rawText.includes("<poly>");
  const found = [];
  for (const each of findMentions(kind, cleaned.text, convention, asPolygons)) {
    const bins = each.locationSpans.map((span) => binsOf(cleaned.text.slice(...span)));
    if (bins.includes(null)) continue;
    found.push({
      label: each.label,
      shape: each.shape,
      rings: bins.map((ring) => dequantize(ring, imageSize, convention)),
      label_span: cleaned.rawSpan(each.labelSpan),
      location_spans: each.locationSpans.map(cleaned.rawSpan),
    });
  }
  return found;
}

/** The dictionary that Hugging Face gives for these regions; its keys depend on the kind. */
export function hfFromRegions(kind, regions) {
  if (kind === AnswerKind.BOXES_OR_POLYGONS) {
    const of = (shape) => regions.filter((region) => region.shape === shape);
    return {
      ...columns("bboxes", "bboxes_labels", of("box")),
      ...columns("polygons", "polygons_labels", of("polygon")),
    };
  }
  const names = { [AnswerKind.QUADS]: "quad_boxes", [AnswerKind.POLYGONS]: "polygons" };
  return columns(names[kind] ?? "bboxes", "labels", regions);
}

function columns(rings, labels, regions) {
  return {
    [rings]: regions.map(({ shape, rings: all }) => {
      const lists = all.map((ring) => [...ring]);
      return shape === "polygon" ? lists : lists[0];
    }),
    [labels]: regions.map((region) => region.label),
  };
}

/** The numbers of a ring; null with one that the originals cannot hold. */
function binsOf(ring) {
  const digits = Array.from(ring.matchAll(LOCATION), (found) => asciiDigits(found[1]));
  if (digits.some((number) => number.length > MOST_DIGITS)) return null;
  const bins = digits.map(BigInt).slice(0, Math.floor(digits.length / 2) * 2); // no x without its y
  return bins.every((bin) => bin <= LARGEST_NUMBER) ? bins : null;
}

/** A text without markers, and where each of its characters stood before. */
function withoutMarkers(rawText, markers) {
  let text = rawText;
  let origin = Array.from({ length: rawText.length }, (_, at) => at);
  // One marker after the other, because what a removal joins may be a marker again.
  for (const marker of markers) {
    const kept = [];
    let at = 0;
    for (let found; (found = text.indexOf(marker, at)) >= 0; at = found + marker.length) {
      for (let i = at; i < found; i += 1) kept.push(origin[i]);
    }
    if (at === 0) continue;
    origin = kept.concat(origin.slice(at));
    text = text.replaceAll(marker, "");
  }
  const rawSpan = ([start, end]) => (start < end ? [origin[start], origin[end - 1] + 1] : [0, 0]);
  return { text, rawSpan };
}

function taskOrFreePrompt(task) {
  if (task instanceof Task) return task;
  const key = strip(String(task)).replace(/^</u, "").replace(/>$/u, "").toUpperCase();
  return Object.hasOwn(TASKS, key) ? TASKS[key] : freeTask(String(task));
}
