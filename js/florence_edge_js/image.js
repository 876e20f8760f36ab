/**
 * Images in: anything a caller has, as RGB, and as the square of bytes that the model sees.
 *
 * The resize is Pillow's bicubic filter (`ImagingResample`, 8 bits a channel), bit for bit: weights
 * in fixed point of 22 bits, along the rows and along the columns, each rounded to bytes.
 */

import { ImageError } from "./errors.js";
import { shown } from "./options.js";

const { imul } = Math;

/** Pictures of more pixels are refused; Python's limit (image_file.py). */
export const MAX_PIXELS = 110_000_000;

const PRECISION_BITS = 32 - 8 - 2;
const HALF = 1 << (PRECISION_BITS - 1);
const SUPPORT = 2; // of the bicubic filter, in pixels of the smaller picture
const A = -0.5; // Pillow's variant of the filter

/**
 * An upright picture as the model is given it.
 *
 * @typedef {{width: number, height: number, data: Uint8Array | Uint8ClampedArray}} RgbPicture
 *   `data` has 3 (RGB) or 4 (RGBA) bytes a pixel, row by row; alpha is dropped, as Pillow drops it
 */

/**
 * The pixels of a picture: raw pixels as they are, and in a browser whatever it can draw.
 *
 * @param image {width, height, data} with 3 or 4 bytes a pixel (an ImageData is one); in a browser
 *   also a Blob, an <img>, a <canvas>, a <video>, an ImageBitmap or a VideoFrame
 * @returns {Promise<RgbPicture>}
 * @throws {ImageError} it cannot be read, has no pixels or too many
 */
export async function loadImage(image, maxPixels = MAX_PIXELS) {
  if (image?.data?.BYTES_PER_ELEMENT === 1) return checked(image, maxPixels);
  if (typeof createImageBitmap !== "function" || typeof image !== "object" || image === null) {
    throw new ImageError(
      `A picture is expected as {width, height, data} with 3 (RGB) or 4 (RGBA) bytes a pixel, or ` +
        `in a browser as a Blob or what a canvas draws, got ${shown(image)}. In node decode files ` +
        "first, with the package sharp for example.",
    );
  }
  return checked(await drawn(image, maxPixels), maxPixels);
}

function checked(image, maxPixels) {
  const { width, height, data } = image;
  if (!(width > 0 && height > 0)) {
    throw new ImageError(`The image has no pixels: its size is ${width}x${height}.`);
  }
  checkPixels(width, height, maxPixels);
  if (![3, 4].includes(data.length / (width * height))) {
    throw new ImageError(
      `The image of ${width}x${height} pixels has ${data.length} bytes of data, expected 3 (RGB) ` +
        "or 4 (RGBA) a pixel. Convert it first.",
    );
  }
  return image;
}

function checkPixels(width, height, maxPixels) {
  if (width * height > maxPixels) {
    throw new ImageError(
      `The image has ${width}x${height} pixels, more than the ${maxPixels} that are allowed. ` +
        "Shrink it, or raise max_pixels.",
    );
  }
}

/** What a browser draws, upright and in sRGB, as a canvas gives it back. */
async function drawn(image, maxPixels) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(image, {
      premultiplyAlpha: "none",
      colorSpaceConversion: "none", // Pillow does not convert either
    });
  } catch (error) {
    throw new ImageError(
      "The browser cannot decode this picture. It is damaged or cut short, not loaded yet, or of a " +
        "kind that it does not know: fetch it again, or convert it to PNG or JPEG.",
      { cause: error },
    );
  }
  const { width, height } = bitmap;
  try {
    checkPixels(width, height, maxPixels);
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } finally {
    bitmap.close();
  }
}

/**
 * Squash a picture to a square by Pillow's bicubic filter, as originally.
 *
 * @param {RgbPicture} image
 * @param {number} side of the square
 * @param {Uint8Array} into [side * side * 3], RGB
 */
export function resize(image, side, into) {
  const { width, height, data } = image;
  const channels = data.length / (width * height);
  const across = weightsOf(width, side);
  const down = weightsOf(height, side);
  if (goesDownFirst(width, height, side)) {
    const columns = new Uint8Array(side * width * channels);
    resizeColumns(data, width * channels, down, columns);
    resizeRows(columns, { width, height: side, channels }, across, into);
  } else {
    const rows = new Uint8Array(height * side * 3);
    resizeRows(data, { width, height, channels }, across, rows);
    resizeColumns(rows, side * 3, down, into);
  }
}

/** Whether Pillow resizes columns before lines: since 13.0, where that saves it work. */
function goesDownFirst(width, height, side) {
  return height > side && height - side > 2 * (width - side);
}

/** Lines of `width` pixels as lines of as many as there are weights, in RGB. */
function resizeRows(data, { width, height, channels }, { first, count, weights, most }, out) {
  let place = 0;
  for (let y = 0; y < height; y += 1) {
    const row = y * width * channels;
    for (let x = 0; x < first.length; x += 1) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let at = row + first[x] * channels;
      const start = x * most;
      for (let i = start; i < start + count[x]; i += 1) {
        const weight = weights[i];
        red = (red + imul(weight, data[at])) | 0; // whole numbers of 32 bits, as in C
        green = (green + imul(weight, data[at + 1])) | 0;
        blue = (blue + imul(weight, data[at + 2])) | 0;
        at += channels;
      }
      out[place] = clipped(red);
      out[place + 1] = clipped(green);
      out[place + 2] = clipped(blue);
      place += 3;
    }
  }
}

/** Columns of lines of `bytes` as columns of as many as there are weights. */
function resizeColumns(data, bytes, { first, count, weights, most }, out) {
  const sums = new Int32Array(bytes); // of a whole line: the picture is read as it lies in memory
  for (let y = 0; y < first.length; y += 1) {
    sums.fill(HALF);
    for (let i = 0; i < count[y]; i += 1) {
      const weight = weights[y * most + i];
      const line = (first[y] + i) * bytes;
      for (let x = 0; x < bytes; x += 1) sums[x] += imul(weight, data[line + x]);
    }
    for (let x = 0; x < bytes; x += 1) out[y * bytes + x] = clipped(sums[x]);
  }
}

/** A sum in fixed point as a byte. */
function clipped(sum) {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/**
 * The weights of each pixel of a line of `to` pixels that is made of `from` (`precompute_coeffs`).
 *
 * @returns {{first: Int32Array, count: Int32Array, weights: Int32Array, most: number}} pixel x is
 *   the sum of `count[x]` pixels from `first[x]` on, weighted by `weights` from x * most on
 */
function weightsOf(from, to) {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT * filterScale;
  const most = 2 * Math.ceil(support) + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const weights = new Int32Array(to * most);
  for (let x = 0; x < to; x += 1) {
    const center = (x + 0.5) * scale;
    first[x] = Math.max(0, Math.trunc(center - support + 0.5));
    count[x] = Math.min(from, Math.trunc(center + support + 0.5)) - first[x];
    const floats = Array.from({ length: count[x] }, (_, i) =>
      bicubic((i + first[x] - center + 0.5) * (1 / filterScale)),
    );
    const sum = floats.reduce((total, each) => total + each, 0);
    floats.forEach((each, i) => {
      const weight = (sum === 0 ? each : each / sum) * (1 << PRECISION_BITS);
      weights[x * most + i] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    });
  }
  return { first, count, weights, most };
}

function bicubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * A;
  return 0;
}
