/** The picture on the page: fitted into its room, the answer over it, a rectangle drawn on it. */

import { INK, PAPER } from "../js/colours.js";
import { drawRegions, regionAt, styleForScreen } from "../js/drawing.js";
import { Selection } from "./selection.js";

const LARGEST_SIDE = 2048; // of what is shown; phones refuse canvases of many megapixels
const REACH = { mouse: 8, pen: 12, touch: 22 }; // CSS pixels around an edge that still hold it
const CURSORS = {
  new: "crosshair", move: "move", l: "ew-resize", r: "ew-resize", t: "ns-resize", b: "ns-resize",
  lt: "nwse-resize", rb: "nwse-resize", rt: "nesw-resize", lb: "nesw-resize",
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const NO_ANSWER = { regions: [], colours: [], asked: null };

/**
 * @param parts {stage, frame, picture, overlay}: the elements
 * @param told {onSelect(box, finished), onPoint(number), onPick(number)}
 */
export class Stage {
  #parts;
  #told;
  #size = null;
  #answer = NO_ANSWER;
  #highlighted = -1;
  #selecting = false;
  #selection = new Selection();

  constructor(parts, told) {
    this.#parts = parts;
    this.#told = told;
    new ResizeObserver(() => this.#fit()).observe(parts.stage);
    const { overlay } = parts;
    overlay.addEventListener("pointerdown", (event) => this.#press(event));
    overlay.addEventListener("pointermove", (event) => this.#move(event));
    overlay.addEventListener("pointerup", (event) => this.#release(event));
    overlay.addEventListener("pointercancel", () => this.#cancel());
    overlay.addEventListener("pointerleave", () => this.#point(-1));
    overlay.addEventListener("keydown", (event) => this.#key(event));
    overlay.addEventListener("keyup", (event) => this.#keyUp(event));
    this.#describe();
  }

  /** Width and height in pixels of the picture that is shown; null where there is none. */
  get size() {
    return this.#size;
  }

  /** The picture as it is shown, at most 2048 pixels a side. */
  get canvas() {
    return this.#parts.picture;
  }

  get selected() {
    return this.#selection.box;
  }

  /** Show what `drawImage` takes; an answer about an earlier picture goes. */
  show(source, width, height) {
    const shrink = Math.min(1, LARGEST_SIDE / Math.max(width, height));
    const { picture, frame } = this.#parts;
    const shown = [Math.max(1, Math.round(width * shrink)), Math.max(1, Math.round(height * shrink))];
    if (picture.width !== shown[0]) picture.width = shown[0];
    if (picture.height !== shown[1]) picture.height = shown[1];
    const context = picture.getContext("2d");
    context.clearRect(0, 0, ...shown); // of a transparent picture nothing old shines through
    context.drawImage(source, 0, 0, ...shown);
    this.#size = [width, height];
    this.#selection.resize(width, height);
    this.#answer = NO_ANSWER;
    frame.hidden = false;
    this.#fit();
  }

  clear() {
    this.#size = null;
    this.#answer = NO_ANSWER;
    this.#parts.frame.hidden = true;
  }

  /** The regions to draw with their colours, and the box that was asked about or null. */
  setAnswer({ regions, colours, asked }) {
    this.#answer = { regions, colours, asked };
    this.#draw();
  }

  highlight(number) {
    if (number === this.#highlighted) return;
    this.#highlighted = number;
    this.#draw();
  }

  /** Whether a rectangle can be drawn on the picture. */
  setSelecting(selecting) {
    this.#selecting = selecting;
    this.#parts.frame.classList.toggle("selecting", selecting);
    this.#parts.overlay.style.cursor = selecting ? CURSORS.new : "";
    this.#describe();
    this.#draw();
  }

  /** Set the rectangle as it was typed, or null; gives what is left of it within the picture. */
  select(box) {
    const kept = this.#selection.set(box);
    this.#draw();
    return kept;
  }

  #describe() {
    const { overlay } = this.#parts;
    if (this.#selecting) {
      overlay.setAttribute("role", "application");
      overlay.setAttribute(
        "aria-label",
        "Rectangle on the picture. Arrow keys move it, with Shift they size it, Enter asks.",
      );
    } else {
      overlay.setAttribute("role", "img");
      overlay.setAttribute("aria-label", "The answer, drawn over the picture; the list has it in words.");
    }
    overlay.tabIndex = this.#selecting ? 0 : -1;
  }

  #fit() {
    const { stage, frame, overlay } = this.#parts;
    if (this.#size === null) return;
    const around = getComputedStyle(stage);
    const room = [
      stage.clientWidth - parseFloat(around.paddingLeft) - parseFloat(around.paddingRight),
      stage.clientHeight - parseFloat(around.paddingTop) - parseFloat(around.paddingBottom),
    ];
    const zoom = Math.min(room[0] / this.#size[0], room[1] / this.#size[1]);
    if (!(zoom > 0)) return;
    const shown = this.#size.map((side) => Math.max(1, Math.floor(side * zoom)));
    frame.style.width = `${shown[0]}px`;
    frame.style.height = `${shown[1]}px`;
    const ratio = window.devicePixelRatio || 1;
    overlay.width = Math.round(shown[0] * ratio);
    overlay.height = Math.round(shown[1] * ratio);
    this.#draw();
  }

  #draw() {
    const { overlay } = this.#parts;
    const context = overlay.getContext("2d");
    context.clearRect(0, 0, overlay.width, overlay.height);
    if (this.#size === null) return;
    const { regions, colours, asked } = this.#answer;
    const ratio = window.devicePixelRatio || 1;
    drawRegions(context, {
      regions,
      colours,
      size: this.#size,
      style: styleForScreen(ratio, regions.length),
      highlighted: this.#highlighted < regions.length ? this.#highlighted : -1,
      asked: this.#selecting ? null : asked,
    });
    if (this.#selecting && this.#selection.box) this.#drawSelection(context, ratio);
  }

  #drawSelection(context, ratio) {
    const { width, height } = context.canvas;
    const scale = [width / this.#size[0], height / this.#size[1]];
    const [left, top, right, bottom] = this.#selection.box.map((edge, at) => edge * scale[at % 2]);
    context.save();
    context.fillStyle = "rgba(10, 10, 12, 0.42)";
    const around = new Path2D();
    around.rect(0, 0, width, height);
    around.rect(left, top, right - left, bottom - top);
    context.fill(around, "evenodd");
    context.lineWidth = 3 * ratio;
    context.strokeStyle = INK;
    context.strokeRect(left, top, right - left, bottom - top);
    context.lineWidth = 1.5 * ratio;
    context.strokeStyle = PAPER;
    context.setLineDash([6 * ratio, 4 * ratio]);
    context.strokeRect(left, top, right - left, bottom - top);
    context.setLineDash([]);
    for (const [x, y] of [[left, top], [right, top], [left, bottom], [right, bottom]]) {
      context.beginPath();
      context.arc(x, y, 5 * ratio, 0, 2 * Math.PI);
      context.fillStyle = PAPER;
      context.fill();
      context.stroke();
    }
    context.restore();
  }

  #at(event) {
    const room = this.#parts.overlay.getBoundingClientRect();
    return [
      ((event.clientX - room.left) / room.width) * this.#size[0],
      ((event.clientY - room.top) / room.height) * this.#size[1],
    ];
  }

  #reach(event) {
    const zoom = this.#parts.overlay.clientWidth / this.#size[0];
    return (REACH[event.pointerType] ?? REACH.mouse) / zoom;
  }

  #press(event) {
    if (event.button !== 0 || this.#size === null) return;
    if (!this.#selecting) {
      this.#told.onPick(regionAt(this.#answer.regions, ...this.#at(event)));
      return;
    }
    this.#parts.overlay.setPointerCapture(event.pointerId);
    this.#selection.press(...this.#at(event), this.#reach(event));
  }

  #move(event) {
    if (this.#size === null) return;
    const [x, y] = this.#at(event);
    if (this.#selection.dragging) {
      this.#selection.drag(x, y);
      this.#draw();
      this.#told.onSelect(this.#selection.box, false);
    } else if (this.#selecting) {
      this.#parts.overlay.style.cursor = CURSORS[this.#selection.grip(x, y, this.#reach(event))];
    } else if (event.pointerType === "mouse") {
      this.#point(regionAt(this.#answer.regions, x, y));
    }
  }

  #release() {
    if (!this.#selection.dragging) return;
    const changed = this.#selection.release();
    this.#draw();
    if (changed) this.#told.onSelect(this.#selection.box, true);
  }

  #cancel() {
    this.#selection.cancel();
    this.#draw();
    this.#told.onSelect(this.#selection.box, false);
  }

  #point(number) {
    if (!this.#selecting) this.#told.onPoint(number);
  }

  #key(event) {
    if (!this.#selecting || this.#size === null || !(event.key in ARROWS)) return;
    event.preventDefault();
    this.#selection.step(...ARROWS[event.key], event.shiftKey);
    this.#draw();
    this.#told.onSelect(this.#selection.box, false);
  }

  #keyUp(event) {
    const ready = this.#selecting && event.key === "Enter" && this.#selection.box;
    if (ready) this.#told.onSelect(this.#selection.box, true);
  }
}
