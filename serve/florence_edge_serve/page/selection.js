/**
 * A rectangle on a picture that mouse, finger and keys draw, move and size.
 *
 * Pure geometry in pixels of the picture; the stage feeds it points and draws what it holds.
 */

const CENTRE = 0.25; // the first rectangle of a keyboard leaves a quarter of the picture on each side

/** One rectangle: [left, top, right, bottom] in whole pixels, or null. */
export class Selection {
  box = null;
  #size = [1, 1];
  #drag = null;

  /** The size of the picture in pixels; a rectangle that does not fit another picture goes. */
  resize(width, height) {
    if (this.#size[0] === width && this.#size[1] === height) return;
    this.#size = [width, height];
    this.box = null;
    this.#drag = null;
  }

  get dragging() {
    return this.#drag !== null;
  }

  /** Set the edges as they were typed; clipped to the picture, null where it has no area. */
  set(box) {
    this.box = box === null ? null : tidy(box, this.#size);
    return this.box;
  }

  /** What a drag from this point would do: "new", "move", or the edges it holds such as "rb". */
  grip(x, y, reach) {
    if (this.box === null) return "new";
    const [left, top, right, bottom] = this.box;
    const near = (one, other) => Math.abs(one - other) <= reach;
    const across = near(x, left) ? "l" : near(x, right) ? "r" : "";
    const down = near(y, top) ? "t" : near(y, bottom) ? "b" : "";
    const within = (at, from, to) => at >= from - reach && at <= to + reach;
    if (!within(x, left, right) || !within(y, top, bottom)) return "new";
    return across + down || "move";
  }

  press(x, y, reach) {
    const grip = this.grip(x, y, reach);
    this.#drag = { grip, x, y, from: this.box ?? [x, y, x, y], before: this.box };
    if (grip === "new") this.#drag.from = [x, y, x, y];
  }

  drag(x, y) {
    const { grip, from } = this.#drag;
    const [across, down] = [x - this.#drag.x, y - this.#drag.y];
    if (grip === "move") {
      this.box = moved(from, across, down, this.#size);
      return;
    }
    const held = grip === "new" ? "rb" : grip;
    const box = [...from];
    if (held.includes("l")) box[0] += across;
    if (held.includes("t")) box[1] += down;
    if (held.includes("r")) box[2] += across;
    if (held.includes("b")) box[3] += down;
    this.box = tidy(box, this.#size) ?? this.#drag.before;
  }

  /** End of a drag: whether the rectangle is another one than before. */
  release() {
    const before = this.#drag?.before ?? null;
    this.#drag = null;
    return this.box !== null && String(before) !== String(this.box);
  }

  /** Give up a drag, as a browser does when it takes the finger for itself. */
  cancel() {
    if (this.#drag) this.box = this.#drag.before;
    this.#drag = null;
  }

  /** Move (or size) by steps of a hundredth of the picture; the first key brings up a rectangle. */
  step(across, down, sizing) {
    const [width, height] = this.#size;
    if (this.box === null) {
      const edges = [CENTRE * width, CENTRE * height, (1 - CENTRE) * width, (1 - CENTRE) * height];
      this.box = tidy(edges, this.#size);
      return;
    }
    const by = [across * Math.max(1, width / 100), down * Math.max(1, height / 100)];
    if (!sizing) {
      this.box = moved(this.box, by[0], by[1], this.#size);
      return;
    }
    const [left, top, right, bottom] = this.box;
    this.box = tidy(
      [left, top, Math.max(right + by[0], left + 1), Math.max(bottom + by[1], top + 1)],
      this.#size,
    );
  }
}

function moved(box, across, down, [width, height]) {
  const shift = [
    Math.max(-box[0], Math.min(across, width - box[2])),
    Math.max(-box[1], Math.min(down, height - box[3])),
  ];
  return box.map((edge, at) => Math.round(edge + shift[at % 2]));
}

/** In order, within the picture, in whole pixels; null without an area. */
function tidy(box, [width, height]) {
  if (box.some((edge) => !Number.isFinite(edge))) return null;
  const clip = (edge, side) => Math.round(Math.max(0, Math.min(edge, side)));
  const xs = [clip(box[0], width), clip(box[2], width)].sort((one, other) => one - other);
  const ys = [clip(box[1], height), clip(box[3], height)].sort((one, other) => one - other);
  return xs[0] < xs[1] && ys[0] < ys[1] ? [xs[0], ys[0], xs[1], ys[1]] : null;
}
