/**
 * What comes back from the model: regions, words and scores.
 *
 * How sure the model was, from the log-probabilities of tokens to the score of a part of the text:
 *
 *     tokens      </s>   <s>    car    <loc_53> <loc_333> <loc_932> <loc_774>   </s>
 *     log-prob    forced forced -0.7   -0.1     -0.2      -0.1      -0.4        special
 *     score                     0.50   └────────── exp(mean) = 0.82 ─────────┘
 *
 * A score is exp of the mean log-probability. Markers and forced tokens say nothing about the
 * picture and count nowhere.
 */

import { cleaned } from "./cleanup.js";
import { RequestError } from "./errors.js";
import { checkNames, shown } from "./options.js";
import { findRegions, hfFromRegions, plainText } from "./parse.js";
import { Region } from "./regions.js";
import { AnswerKind } from "./tasks.js";
import { strip } from "./text.js";

const NAMELESS = "object"; // the class of regions to which the model gives no label
const MARKERS = new Set(["<s>", "</s>", "<pad>"]);

/**
 * One generated token: the text that it adds and how likely it was.
 *
 * @typedef {{token_id: number, text: string, log_prob: number, forced: boolean}} TokenPiece
 */

/** Scores stretches of one answer's raw text. */
class Scorer {
  #counted;

  constructor(pieces) {
    const spans = spansOf(pieces);
    this.#counted = pieces
      .map((piece, at) => ({ ...piece, span: spans[at] }))
      .filter((piece) => !piece.forced && !MARKERS.has(piece.text));
  }

  /** The score of the whole answer; null where nothing was said. */
  whole() {
    return scoreOf(this.#counted);
  }

  /** The score of the tokens that reach into these stretches; null without any. */
  of(stretches) {
    return scoreOf(
      stretches.flatMap(([start, end]) =>
        this.#counted.filter(({ span }) => span[1] > start && span[0] < end),
      ),
    );
  }
}

/** The characters of the raw text that each token has a part in. */
function spansOf(pieces) {
  let position = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
  let end = position;
  const spans = [];
  for (const piece of [...pieces].reverse()) {
    if (piece.text) {
      end = position; // a piece without text shares the span of the one that completes it
      position -= piece.text.length;
    }
    spans.push([position, end]);
  }
  return spans.reverse();
}

function scoreOf(pieces) {
  if (pieces.length === 0) return null;
  return Math.exp(pieces.reduce((sum, piece) => sum + piece.log_prob, 0) / pieces.length);
}

/** One answer of the model to one task on one picture; its fields are those of Python's Result. */
export class Result {
  constructor(fields) {
    Object.assign(this, fields);
    Object.freeze(this);
  }

  /** One score a region, in their order; for plain text that of the text. */
  get scores() {
    if (this.task.answer === AnswerKind.PURE_TEXT) return this.text ? [this.score] : [];
    return this.regions.map((region) => region.score);
  }

  /** One box a region: left, top, right, bottom as fractions of the picture, 0 to 1. */
  get normalized_boxes() {
    return this.regions.map((region) =>
      region.box.map((edge, at) => edge / this.image_size[at % 2]),
    );
  }

  /** The dictionary that Hugging Face's processor gives: `{"<OD>": {bboxes: ..., ...}}`. */
  to_hf() {
    const { answer, token } = this.task;
    if (answer === AnswerKind.PURE_TEXT) return { [token]: this.text };
    return { [token]: hfFromRegions(answer, this.regions) };
  }

  /** All of it in types that `JSON.stringify` takes. */
  to_json() {
    return {
      task: this.task.token,
      text_input: this.text_input,
      raw_text: this.raw_text,
      token_ids: [...this.token_ids],
      result: this.to_hf(),
      scores: this.scores,
      label_scores: this.regions.map((region) => region.label_score),
      status: this.status,
      cut_off: this.cut_off,
      image_size: [...this.image_size],
      seconds: { ...this.seconds },
    };
  }

  /** The same with the seconds of each stage. */
  timed(seconds) {
    return new Result({ ...this, seconds });
  }

  /**
   * Without the regions that score below `minScore`, or whose label is none of `classes`; of the
   * others at most `max_regions`, the best. The text stays as the model said it.
   *
   * @throws {RequestError} a limit is not a number in range, or a class is empty or stands twice
   */
  filter(minScore = 0, { classes = null, max_regions = null, ...others } = {}) {
    checkFilter(minScore, max_regions, others);
    const chosen = classes === null ? null : keysOf(classes);
    const kept = this.regions.filter(
      ({ score, label }) => score >= minScore && (chosen?.has(keyOf(label)) ?? true),
    );
    const best = [...kept].sort((one, other) => other.score - one.score); // ties in their order
    const among = new Set(best.slice(0, max_regions ?? kept.length));
    return this.#with(kept.filter((region) => among.has(region)));
  }

  /**
   * Without what a model's slips leave: regions without an area, location tokens in labels.
   *
   * A region whose label is nothing but such tokens goes, too. Raw text, tokens and status stay.
   */
  clean() {
    return this.#with(cleaned(this.regions));
  }

  #with(regions) {
    return new Result({ ...this, regions: Object.freeze(regions) });
  }
}

function checkFilter(minScore, max_regions, others) {
  checkNames(others, ["classes", "max_regions"]);
  if (typeof minScore !== "number" || Number.isNaN(minScore)) {
    throw new RequestError(`minScore is ${shown(minScore)}; it must be a number, 0 to 1.`);
  }
  if (max_regions !== null && !(Number.isInteger(max_regions) && max_regions >= 0)) {
    throw new RequestError(
      `max_regions is ${shown(max_regions)}; it must be a whole number of 0 or more.`,
    );
  }
}

/** What labels are compared by: no white space around, and whatever the case. */
function keyOf(label) {
  return (strip(label) || NAMELESS).toUpperCase().toLowerCase(); // ß is ss
}

function keysOf(classes) {
  if (!Array.isArray(classes)) {
    throw new RequestError(
      `Classes are a list of labels, such as ['car', 'bus'], got ${shown(classes)}.`,
    );
  }
  const keys = new Set();
  for (const name of classes) {
    if (typeof name !== "string" || strip(name) === "" || keys.has(keyOf(name))) {
      throw new RequestError(
        `${shown(name)} cannot be a class: it is empty, or stands twice. Give each label once.`,
      );
    }
    keys.add(keyOf(name));
  }
  return keys;
}

/**
 * Read what was generated: find the regions, score them and the whole.
 *
 * @param {Task} task what was asked
 * @param {TokenPiece[]} pieces all tokens from the start token on; their texts, joined, are the raw
 *   text
 * @param {{image_size: [number, number], text_input: string | null, convention: string,
 *   cut_off: string | null}} about `cut_off`: why the answer was stopped before its end, if it was
 */
export function readAnswer(task, pieces, about) {
  const { image_size, text_input, convention, cut_off } = about;
  const raw_text = pieces.map((piece) => piece.text).join("");
  const scorer = new Scorer(pieces);
  const whole = scorer.whole();
  const found = findRegions(task.answer, raw_text, image_size, convention);
  const understood = found.length > 0 || task.answer === AnswerKind.PURE_TEXT;
  return new Result({
    task,
    text_input,
    raw_text,
    token_ids: Object.freeze(pieces.map((piece) => piece.token_id)),
    token_log_probs: Object.freeze(pieces.map((piece) => piece.log_prob)),
    status: statusOf(whole !== null, understood, cut_off !== null),
    cut_off,
    image_size,
    convention,
    text: plainText(raw_text, convention),
    regions: Object.freeze(found.map((region) => scored(region, scorer))),
    score: whole ?? 0,
    seconds: {}, // whoever measured the stages adds them
  });
}

function statusOf(saidSomething, understood, truncated) {
  if (truncated) return "truncated"; // also where nothing was said yet
  if (!saidSomething) return "empty";
  return understood ? "ok" : "unparsed";
}

function scored(found, scorer) {
  return new Region({
    label: found.label,
    shape: found.shape,
    rings: found.rings,
    // Locations that were all forced say nothing of their own: the whole answer stands in.
    score: scorer.of(found.location_spans) ?? scorer.whole() ?? 0,
    label_score: found.label ? scorer.of([found.label_span]) : null,
  });
}
