/** The answer in words: text, regions with scores, a threshold, how long each stage took. */

import { boxOf } from "../js/drawing.js";

const NOTES = {
  empty: "The model said nothing.",
  unparsed: "The answer names no region; this is its raw text.",
  truncated: "Cut off: the answer reached its longest length, or its time was up.",
};
const STAGES = ["queue", "image", "vision", "prefill", "decode", "parse"];
const LESS_THAN_SHOWN = 0.004; // of the whole: a stage too short for a stripe

/**
 * @param parts {nothing, body, note, words, thresholdField, threshold, thresholdValue, regions,
 *   hiddenCount, stages, latency}: the elements
 * @param told {onPoint(number), onPick(number), onThreshold()}
 */
export class AnswerView {
  #parts;
  #told;
  #rows = [];

  constructor(parts, told) {
    this.#parts = parts;
    this.#told = told;
    parts.threshold.addEventListener("input", () => {
      parts.thresholdValue.textContent = this.threshold.toFixed(2);
      told.onThreshold();
    });
  }

  /** Regions that score lower are not shown. */
  get threshold() {
    return Number(this.#parts.threshold.value);
  }

  /** The room of an answer that is being made: its text so far. */
  showWriting(text) {
    const { nothing, body, words, note, regions, hiddenCount, thresholdField, stages } = this.#parts;
    nothing.hidden = true;
    body.hidden = false;
    for (const part of [note, hiddenCount, thresholdField, stages]) part.hidden = true;
    regions.replaceChildren();
    this.#rows = [];
    words.hidden = false;
    words.classList.add("writing");
    words.classList.toggle("raw", text.includes("<loc_"));
    words.textContent = text;
  }

  /**
   * @param answer one of the server's answers
   * @param shown numbers of the answer's regions that reach the threshold
   * @param colours one for each region of the answer
   */
  show(answer, shown, colours) {
    const { nothing, body, words, note, thresholdField } = this.#parts;
    nothing.hidden = true;
    body.hidden = false;
    const plain = typeof Object.values(answer.result)[0] === "string"; // words alone
    words.classList.remove("writing");
    words.classList.toggle("raw", answer.status === "unparsed");
    words.hidden = !plain && answer.status !== "unparsed";
    words.textContent = answer.status === "unparsed" ? answer.raw_text : answer.text;
    note.hidden = !(answer.status in NOTES);
    note.textContent = NOTES[answer.status] ?? "";
    if (plain && answer.text) this.#addScore(answer.score);
    thresholdField.hidden = answer.regions.length === 0;
    this.#list(answer, shown, colours);
  }

  /** Stages of the server's work in seconds, and the seconds from question to answer here. */
  showSeconds(seconds, roundTrip) {
    const { stages, latency } = this.#parts;
    const known = STAGES.filter((name) => seconds[name] !== undefined);
    const whole = known.reduce((sum, name) => sum + seconds[name], 0);
    const bar = document.createElement("div");
    bar.className = "bar-of-stages";
    const legend = document.createElement("ul");
    for (const name of known) {
      if (seconds[name] < LESS_THAN_SHOWN * whole) continue;
      const stripe = document.createElement("i");
      stripe.dataset.stage = name;
      stripe.style.flexGrow = String(seconds[name] / whole);
      bar.append(stripe);
      const line = document.createElement("li");
      line.dataset.stage = name;
      line.textContent = `${name} ${duration(seconds[name])}`;
      legend.append(line);
    }
    bar.setAttribute("aria-hidden", "true");
    stages.replaceChildren(bar, legend);
    stages.hidden = whole === 0;
    latency.hidden = false;
    latency.textContent = duration(roundTrip);
    latency.title = `From the question to the answer, network included. The server: ${duration(seconds.total ?? whole)}.`;
  }

  /** Bring out a region's row; -1 for none. */
  highlight(number, scroll = false) {
    for (const row of this.#rows) {
      const chosen = row.number === number;
      row.button.setAttribute("aria-pressed", String(chosen));
      if (chosen && scroll) row.button.scrollIntoView({ block: "nearest" });
    }
  }

  clear() {
    const { nothing, body, latency } = this.#parts;
    nothing.hidden = false;
    body.hidden = true;
    latency.hidden = true;
    this.#rows = [];
    this.#parts.regions.replaceChildren();
  }

  #addScore(score) {
    const chip = document.createElement("span");
    chip.className = "score-chip";
    chip.textContent = score.toFixed(2);
    chip.title = "How sure the model was of these words, 0 to 1";
    this.#parts.words.append(" ", chip);
  }

  #list(answer, shown, colours) {
    const { regions, hiddenCount } = this.#parts;
    // Rows are kept from answer to answer, so that a camera does not take the focus away.
    while (this.#rows.length > shown.length) this.#rows.pop().item.remove();
    while (this.#rows.length < shown.length) {
      const row = this.#newRow();
      this.#rows.push(row);
      regions.append(row.item);
    }
    shown.forEach((number, at) => fillRow(this.#rows[at], number, answer.regions[number], colours[number]));
    const below = answer.regions.length - shown.length;
    hiddenCount.hidden = below === 0;
    hiddenCount.textContent = `${below} below the lowest score`;
  }

  #newRow() {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "region";
    const [swatch, label, place, meter, score] = ["swatch", "label", "place", "meter", "score"].map(
      (name) => {
        const part = document.createElement("span");
        part.className = name;
        button.append(part);
        return part;
      },
    );
    const row = { item, button, swatch, label, place, meter, score, number: -1 };
    item.append(button);
    button.addEventListener("pointerenter", () => this.#told.onPoint(row.number));
    button.addEventListener("pointerleave", () => this.#told.onPoint(-1));
    button.addEventListener("focus", () => this.#told.onPoint(row.number));
    button.addEventListener("blur", () => this.#told.onPoint(-1));
    button.addEventListener("click", () => this.#told.onPick(row.number));
    return row;
  }
}

function fillRow(row, number, region, colour) {
  row.number = number;
  row.swatch.style.background = colour;
  row.label.textContent = region.label || `region ${number + 1}`;
  row.place.textContent = placeOf(region);
  row.meter.style.setProperty("--share", String(region.score));
  row.meter.style.setProperty("--colour", colour);
  row.score.textContent = region.score.toFixed(2);
}

function placeOf(region) {
  const [left, top, right, bottom] = boxOf(region).map(Math.round);
  const edges = `${left}, ${top} – ${right}, ${bottom}`;
  if (region.shape !== "polygon") return edges;
  const points = region.rings.reduce((sum, ring) => sum + ring.length / 2, 0);
  return `${edges} · ${points} points`;
}

/** Seconds for people: `412 ms`, `1.24 s`. */
export function duration(seconds) {
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  return seconds < 0.9995 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`;
}
