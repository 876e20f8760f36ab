/**
 * Regions in pixels and in location tokens: each side of a picture is cut into 1,000 bins.
 *
 *     pixels (of 640 x 480)    34, 160, 597, 371
 *     locationTokens           <loc_53><loc_333><loc_932><loc_772>
 *     dequantize               34, 160, 596, 370           (Microsoft's: 34.24, 160.08, 596.8, 370.8)
 */

import { RequestError } from "./errors.js";
import { shown } from "./options.js";

const { fround } = Math;

const LOCATION_BINS = 1000;
const CONVENTIONS = ["native", "microsoft"];

// The vocabulary holds <loc_0> to <loc_999>, without leading zeros.
const FOUR_LOCATIONS = /^\s*(?:<loc_(?:0|[1-9][0-9]{0,2})>){4}\s*$/u;

/** A region in fractions of the picture's sides, 0 to 1; goes wherever one in pixels does. */
export class RelativeBox {
  constructor(left, top, right, bottom) {
    Object.assign(this, { left, top, right, bottom });
    Object.freeze(this);
  }

  *[Symbol.iterator]() {
    yield* [this.left, this.top, this.right, this.bottom];
  }
}

/**
 * One thing that an answer points at.
 *
 * `rings` holds pixel coordinates, flat x, y, x, y, ...: a box is one ring of two corners, a quad
 * one ring of four, a polygon one ring or more. `score` is exp of the mean log-probability of the
 * region's location tokens, `label_score` that of the label's (null without a label).
 */
export class Region {
  constructor({ label, shape, rings, score, label_score = null }) {
    Object.assign(this, { label, shape, rings, score, label_score });
    Object.freeze(this);
  }

  /** The upright box around all rings: left, top, right, bottom (zeros without a point). */
  get box() {
    const xs = this.rings.flatMap((ring) => ring.filter((_, at) => at % 2 === 0));
    const ys = this.rings.flatMap((ring) => ring.filter((_, at) => at % 2 === 1));
    if (xs.length === 0) return [0, 0, 0, 0];
    const least = (values) => values.reduce((a, b) => Math.min(a, b));
    const most = (values) => values.reduce((a, b) => Math.max(a, b));
    return [least(xs), least(ys), most(xs), most(ys)];
  }
}

/**
 * Whether a ring covers anything: it is wide and high, and a polygon or a quad has three points.
 *
 * Its extent decides, since the shoelace formula gives 0 for a quad whose sides cross.
 */
export function hasArea(ring, shape) {
  if (ring.length < (shape === "box" ? 4 : 6)) return false;
  const spreads = (rest) => ring.some((edge, at) => at % 2 === rest && edge !== ring[rest]);
  return spreads(0) && spreads(1);
}

/**
 * The four location tokens of a box, as region tasks take them.
 *
 * @param box left, top, right, bottom in pixels, or a RelativeBox
 * @param {[number, number]} imageSize width, height in pixels
 * @throws {RequestError} the box is not four finite numbers, has no area, or leaves the picture
 */
export function locationTokens(box, imageSize) {
  checkImageSize(imageSize);
  const [width, height] = imageSize;
  const sides = [width, height, width, height];
  let edges = edgesOf(box);
  if (box instanceof RelativeBox) edges = edges.map((edge, at) => edge * sides[at]);
  if (edges[2] > width || edges[3] > height) {
    throw new RequestError(
      `The region (${edges.join(", ")}) leaves the picture, which is ${width} x ${height} pixels. ` +
        "Clip it, or give it in pixels of the original picture.",
    );
  }
  // The far edge of the picture would be bin 1000, which the vocabulary does not have.
  const binOf = (edge, side) =>
    Math.min(Math.floor(edge / (side / LOCATION_BINS)), LOCATION_BINS - 1);
  return edges.map((edge, at) => `<loc_${binOf(edge, sides[at])}>`).join("");
}

/**
 * Refuse what is no region, whatever picture it belongs to.
 *
 * @throws {RequestError} it is not four finite numbers, has no area, begins outside, or is meant in
 *   fractions of the picture without being a RelativeBox
 */
export function checkRegion(box) {
  const edges = edgesOf(box);
  if (Math.max(...edges) <= 1 && !(box instanceof RelativeBox)) {
    const numbers = edges.join(", ");
    throw new RequestError(
      `The region (${numbers}) is not even a pixel, so it seems to be in fractions of the picture, ` +
        `and pixels are expected. For fractions give region: new RelativeBox(${numbers}).`,
    );
  }
}

function edgesOf(box) {
  const numbers = box != null && typeof box !== "string" && box[Symbol.iterator] ? [...box] : [];
  if (numbers.length !== 4 || !numbers.every(Number.isFinite)) {
    throw new RequestError(
      `${shown(box)} is not a region. Expected four finite numbers: give [x1, y1, x2, y2] in ` +
        "pixels of the original picture.",
    );
  }
  const [left, top, right, bottom] = numbers;
  const named = `The region (${numbers.join(", ")})`;
  if (right <= left || bottom <= top) {
    throw new RequestError(
      `${named} has no area. Expected x1 < x2 and y1 < y2: give the left, top, right and bottom ` +
        "edge in this order.",
    );
  }
  if (left < 0 || top < 0) {
    throw new RequestError(`${named} leaves the picture: its edges count from 0. Clip it.`);
  }
  if (box instanceof RelativeBox && (right > 1 || bottom > 1)) {
    throw new RequestError(
      `${named} leaves the picture: fractions go from 0 to 1. Clip it, or give pixels as a list.`,
    );
  }
  return numbers;
}

/** Whether a text is a region written as four location tokens; white space around is allowed. */
export function isLocationText(text) {
  return FOUR_LOCATIONS.test(text);
}

/**
 * The pixel coordinates at the centres of flat bins x, y, x, y, ...
 *
 * Both conventions compute in float32, as the torch tensors of the originals do, so that
 * coordinates agree to the last bit. The native one then cuts the fraction off.
 *
 * @param {bigint[]} bins as in int64
 */
export function dequantize(bins, imageSize, convention) {
  const pixelsPerBin = imageSize.map((side) => fround(side / LOCATION_BINS));
  const pixels = bins.map((bin, at) => fround(fround(float32Of(bin) + 0.5) * pixelsPerBin[at % 2]));
  if (convention === "microsoft") return pixels;
  // The native one ends in int32, where x86 turns what does not fit into the lowest number.
  return pixels.map((pixel) => (pixel < 2 ** 31 ? Math.trunc(pixel) : -(2 ** 31)));
}

/** An int64 rounded once to float32: by way of a double it would be rounded twice. */
function float32Of(bin) {
  if (bin < 1n << 53n) return fround(Number(bin));
  const rest = (bin & 0x3ffn) === 0n ? 0n : 1n; // keeps a tie from looking like one
  return fround(Number((bin >> 10n) | rest) * 1024);
}

/** Refuse a convention that does not exist. */
export function checkConvention(convention) {
  if (!CONVENTIONS.includes(convention)) {
    throw new RequestError(
      `There is no coordinate convention ${shown(convention)}. Use 'native' for the whole numbers ` +
        "of transformers, or 'microsoft' for the fractions of the original code.",
    );
  }
}

/** Refuse what is not a width and a height of at least one pixel. */
export function checkImageSize(imageSize) {
  if (
    !Array.isArray(imageSize) ||
    imageSize.length !== 2 ||
    !imageSize.every((side) => side >= 1)
  ) {
    throw new RequestError(
      `A picture cannot be of size ${shown(imageSize)}. Give [width, height] of the original ` +
        "picture in pixels, both at least 1.",
    );
  }
}
