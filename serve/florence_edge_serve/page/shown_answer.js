/** The answer that is shown: on the picture, in the list, in files, to screen readers. */

import { LabelColours } from "../js/colours.js";
import { copyText, saveCanvas, saveJson } from "./downloads.js";
import { annotatedPicture } from "../js/drawing.js";

const LARGEST_SAVED = 16e6; // pixels of a saved picture; phones refuse larger canvases
const NOTHING = { regions: [], colours: [], asked: null };

/**
 * Holds one answer, and keeps the stage and the panel at what it says.
 *
 * Regions are counted as the answer has them; the stage counts those that reach the threshold.
 */
export class ShownAnswer {
  #stage;
  #view;
  #parts;
  #colours = new LabelColours();
  #reply = null;
  #answer = null;
  #roundTrip = 0;
  #live = false;
  #pinned = -1;

  /**
   * @param stage, view where it is shown
   * @param parts {subtitle, announce}: the elements
   */
  constructor(stage, view, parts) {
    this.#stage = stage;
    this.#view = view;
    this.#parts = parts;
  }

  get isEmpty() {
    return this.#answer === null;
  }

  /** Show the server's reply; `live` is one of a camera, whose text stands on the frame. */
  set(reply, roundTrip, live) {
    this.#reply = reply;
    this.#answer = named(reply.answers[0]);
    this.#roundTrip = roundTrip;
    this.#live = live;
    if (!live || this.#pinned >= this.#answer.regions.length) this.#pinned = -1;
    this.render();
  }

  clear() {
    this.#answer = null;
    this.#reply = null;
    this.#pinned = -1;
    this.#view.clear();
    this.#stage.setAnswer(NOTHING);
    this.#parts.subtitle.hidden = true;
  }

  render() {
    if (this.isEmpty) return;
    const { subtitle } = this.#parts;
    this.#view.show(this.#answer, this.#numbers(), this.#colours.of(this.#answer.regions));
    this.#view.showSeconds(this.#reply.seconds, this.#roundTrip);
    this.#view.highlight(this.#pinned);
    this.draw();
    subtitle.hidden = !this.#caption();
    subtitle.textContent = this.#caption();
    subtitle.classList.toggle("still", !this.#live);
  }

  /** Draw it over the picture anew, as after another frame. */
  draw() {
    if (this.isEmpty) return;
    this.#stage.setAnswer(this.#drawn());
    this.#stage.highlight(this.#numbers().indexOf(this.#pinned));
  }

  /** Tell screen readers what came, in a few words. */
  announce() {
    const count = this.#answer.regions.length;
    const regions = `${count} ${count === 1 ? "region" : "regions"}`;
    const what = count > 0 ? regions : this.#caption() || "no answer";
    this.#parts.announce.textContent = `${what}, ${this.#roundTrip.toFixed(1)} seconds.`;
  }

  /** The number of a region that the stage counts among those it shows; -1 stays. */
  numberAt(at) {
    return this.isEmpty || at < 0 ? -1 : this.#numbers()[at];
  }

  /** Bring out a region while a pointer is on it; -1 goes back to the one that was clicked. */
  point(number) {
    if (this.isEmpty) return;
    const chosen = number >= 0 ? number : this.#pinned;
    this.#stage.highlight(this.#numbers().indexOf(chosen));
    this.#view.highlight(chosen);
  }

  /** Keep a region brought out until it is clicked again. */
  pin(number, scroll) {
    if (this.isEmpty) return;
    this.#pinned = number === this.#pinned ? -1 : number;
    this.#stage.highlight(this.#numbers().indexOf(this.#pinned));
    this.#view.highlight(this.#pinned, scroll);
  }

  /** Save the server's whole reply. */
  saveJson(stem) {
    if (!this.isEmpty) saveJson(`${stem}.json`, this.#reply);
  }

  /** Save the picture with what is shown of the answer; `original` as it was, or null. */
  async savePicture(stem, original) {
    if (this.isEmpty) return;
    const { size, canvas } = this.#stage;
    const whole = original !== null && size[0] * size[1] <= LARGEST_SAVED;
    const [width, height] = whole ? size : [canvas.width, canvas.height];
    const drawn = { ...this.#drawn(), size, width, height, caption: this.#caption() };
    await saveCanvas(`${stem}.png`, annotatedPicture(whole ? original : canvas, drawn));
  }

  /** Copy the text, or Hugging Face's dictionary as JSON. */
  async copy() {
    if (this.isEmpty) return;
    await copyText(this.#caption() || JSON.stringify(this.#answer.result));
  }

  #caption() {
    return isPlain(this.#answer) ? this.#answer.text : "";
  }

  /** Numbers of the regions that reach the threshold. */
  #numbers() {
    const { regions } = this.#answer;
    const every = regions.map((_, number) => number);
    return every.filter((number) => regions[number].score >= this.#view.threshold);
  }

  #drawn() {
    const { regions, asked_region: asked } = this.#answer;
    const colours = this.#colours.of(regions);
    const numbers = this.#numbers();
    return {
      regions: numbers.map((number) => regions[number]),
      colours: numbers.map((number) => colours[number]),
      asked,
    };
  }
}

/** Whether an answer is words alone. */
function isPlain(answer) {
  return typeof Object.values(answer.result)[0] === "string";
}

/** Outlines carry no label: what was asked for stands in. */
function named(answer) {
  const asked = answer.asked_region ? "" : (answer.text_input ?? "");
  const regions = answer.regions.map((each) => ({ ...each, label: each.label || asked }));
  return { ...answer, regions };
}
