/**
 * Draws the regions of an answer on a canvas: boxes, quads, polygons, and tags with label and score.
 *
 * Knows nothing of the page or of the server. A region is what the server sends and what
 * `florence_edge.Region` holds: `{label, shape: "box" | "quad" | "polygon", rings, score}`, rings
 * being flat lists of pixel coordinates x, y, x, y, ... of the picture that was asked about.
 */

import { INK, PAPER, readableOn } from "./colours.js";

/** The fonts of tags and captions; whatever the machine has. */
export const FONT = 'Inter, "Inter Variable", system-ui, -apple-system, "Segoe UI", sans-serif';

const CROWD = 12; // more regions than this get smaller tags
const RIM = "rgba(18, 18, 20, 0.6)"; // keeps a line visible on every ground

/** Sizes in canvas pixels that suit a picture drawn for a file, as draw.py chooses them. */
export function styleForPicture(width, height, count) {
  const side = Math.sqrt(width * height);
  const crowding = Math.min(Math.max(Math.sqrt(CROWD / Math.max(count, 1)), 0.6), 1);
  const text = Math.max(10, Math.round((side / 38) * crowding));
  return { line: Math.max(1, Math.round(side / 260)), text, padding: Math.max(2, text / 4) };
}

/** Sizes in canvas pixels for a screen, whatever the picture; `ratio` is devicePixelRatio. */
export function styleForScreen(ratio, count) {
  const text = (count > CROWD ? 11 : 13) * ratio;
  return { line: 2 * ratio, text, padding: 4 * ratio };
}

/** The upright box around all rings: [left, top, right, bottom]; zeros without a point. */
export function boxOf(region) {
  const xs = region.rings.flatMap((ring) => ring.filter((_, at) => at % 2 === 0));
  const ys = region.rings.flatMap((ring) => ring.filter((_, at) => at % 2 === 1));
  if (xs.length === 0 || ys.length === 0) return [0, 0, 0, 0];
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/**
 * Draw regions over a picture that fills the canvas.
 *
 * @param context 2D context of a canvas
 * @param regions what to draw, in the answer's order
 * @param colours one #rrggbb for each region (see colours.js)
 * @param size [width, height] of the picture that the coordinates belong to
 * @param style from `styleForPicture` or `styleForScreen`
 * @param highlighted number of the region to bring out, or -1
 * @param asked the box [left, top, right, bottom] that the question was about, or null
 */
export function drawRegions(context, { regions, colours, size, style, highlighted = -1, asked }) {
  const scale = [context.canvas.width / size[0], context.canvas.height / size[1]];
  const order = regions.map((_, number) => number);
  order.sort((one, other) => areaOf(regions[other]) - areaOf(regions[one])); // small ones on top
  if (highlighted >= 0) order.push(...order.splice(order.indexOf(highlighted), 1));
  context.save();
  context.lineJoin = "round";
  if (asked) strokePath(context, boxPath(asked, scale), PAPER, style.line);
  for (const number of order) {
    const dimmed = highlighted >= 0 && number !== highlighted;
    context.globalAlpha = dimmed ? 0.35 : 1;
    drawShape(context, regions[number], colours[number], scale, style, number === highlighted);
  }
  const taken = [];
  for (const number of order) {
    if (highlighted >= 0 && number !== highlighted) continue;
    context.globalAlpha = 1;
    taken.push(drawTag(context, regions[number], colours[number], scale, style, taken));
  }
  context.restore();
}

/** The topmost region at a point of the picture, the smallest first; -1 where there is none. */
export function regionAt(regions, x, y) {
  const hit = regions
    .map((region, number) => ({ number, box: boxOf(region), area: areaOf(region) }))
    .filter(({ box }) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3])
    .sort((one, other) => one.area - other.area);
  return hit.length > 0 ? hit[0].number : -1;
}

/**
 * The picture with its answer, for a file: regions on it, a caption in a strip underneath.
 *
 * @param picture whatever `drawImage` takes
 * @param width, height of the new picture in pixels, without the strip
 * @returns a canvas
 */
export function annotatedPicture(picture, { width, height, regions, colours, size, caption, asked }) {
  const style = styleForPicture(width, height, regions.length);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, width, height);
  drawRegions(context, { regions, colours, size, style, asked });
  return caption.trim() ? withCaption(canvas, caption, style) : canvas;
}

function withCaption(picture, caption, style) {
  const margin = 3 * style.padding;
  const step = style.text * 1.4;
  const page = document.createElement("canvas");
  const context = page.getContext("2d");
  context.font = `500 ${style.text}px ${FONT}`;
  const lines = wrapped(context, caption, picture.width - 2 * margin);
  page.width = picture.width;
  page.height = Math.round(picture.height + lines.length * step + 2 * margin);
  context.fillStyle = INK;
  context.fillRect(0, 0, page.width, page.height);
  context.drawImage(picture, 0, 0);
  context.font = `500 ${style.text}px ${FONT}`; // a new size of the canvas forgets it
  context.fillStyle = PAPER;
  context.textBaseline = "middle";
  lines.forEach((line, number) => {
    context.fillText(line, margin, picture.height + margin + (number + 0.5) * step);
  });
  return page;
}

function drawShape(context, region, colour, scale, style, strong) {
  const path =
    region.shape === "box" ? boxPath(boxOf(region), scale) : ringsPath(region.rings, scale);
  context.fillStyle = colour;
  const alpha = context.globalAlpha;
  context.globalAlpha = alpha * (region.shape === "polygon" ? 0.36 : strong ? 0.22 : 0.08);
  context.fill(path);
  context.globalAlpha = alpha;
  strokePath(context, path, colour, strong ? style.line * 1.5 : style.line);
}

function strokePath(context, path, colour, width) {
  context.lineWidth = width + Math.max(2, width);
  context.strokeStyle = RIM;
  context.stroke(path);
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.stroke(path);
}

function boxPath([left, top, right, bottom], [across, down]) {
  const path = new Path2D();
  path.rect(left * across, top * down, (right - left) * across, (bottom - top) * down);
  return path;
}

function ringsPath(rings, [across, down]) {
  const path = new Path2D();
  for (const ring of rings) {
    if (ring.length < 4) continue; // a single point has no outline
    for (let at = 0; at + 1 < ring.length; at += 2) {
      const point = [ring[at] * across, ring[at + 1] * down];
      if (at === 0) path.moveTo(...point);
      else path.lineTo(...point);
    }
    path.closePath();
  }
  return path;
}

/** Write label and score at a region where they hide no other tag if possible. */
function drawTag(context, region, colour, scale, style, taken) {
  const { width: across, height: down } = context.canvas;
  const score = region.score.toFixed(2);
  const gap = style.text * 0.45;
  context.font = `500 ${style.text * 0.92}px ${FONT}`;
  const scoreWidth = context.measureText(score).width;
  const strong = `650 ${style.text}px ${FONT}`;
  context.font = strong;
  const name = region.track_id == null ? region.label : `${region.label} #${region.track_id}`;
  const room = across - 2 * style.padding - gap - scoreWidth;
  const label = name ? fitted(context, name, room) : "";
  const labelWidth = label ? context.measureText(label).width + gap : 0;
  const tag = [labelWidth + scoreWidth + 2.5 * style.padding, style.text + 2 * style.padding];
  const place = bestPlace(placesFor(region, tag, scale, style, [across, down]), taken);
  context.fillStyle = colour;
  context.beginPath();
  context.roundRect(place[0], place[1], tag[0], tag[1], style.padding);
  context.fill();
  context.fillStyle = readableOn(colour);
  context.textBaseline = "middle";
  const middle = place[1] + tag[1] / 2 + style.text * 0.04;
  context.fillText(label, place[0] + 1.25 * style.padding, middle);
  context.font = `500 ${style.text * 0.92}px ${FONT}`;
  context.fillText(score, place[0] + 1.25 * style.padding + labelWidth, middle);
  return place;
}

/** Where a tag may stand, the best first: over the box, in it, under it; left, then right. */
function placesFor(region, [width, height], scale, style, [across, down]) {
  const box = boxOf(region).map((edge, at) => edge * scale[at % 2]);
  const rim = style.line;
  const places = [];
  for (const x of [box[0] - rim / 2, box[2] + rim / 2 - width]) {
    for (const y of [box[1] - height - rim / 2, box[1], box[3] + rim / 2, box[3] - height]) {
      const left = Math.max(0, Math.min(x, across - width));
      const top = Math.max(0, Math.min(y, down - height));
      places.push([left, top, left + width, top + height]);
    }
  }
  return places;
}

function bestPlace(places, taken) {
  const hidden = (place) => taken.reduce((sum, other) => sum + overlap(place, other), 0);
  return places.reduce((best, place) => (hidden(place) < hidden(best) ? place : best));
}

function overlap(one, other) {
  const across = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const down = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  return Math.max(across, 0) * Math.max(down, 0);
}

function areaOf(region) {
  const [left, top, right, bottom] = boxOf(region);
  return (right - left) * (bottom - top);
}

function fitted(context, text, width) {
  let line = text.trim().replace(/\s+/gu, " ");
  if (context.measureText(line).width <= width) return line;
  while (line && context.measureText(`${line}…`).width > width) line = line.slice(0, -1).trimEnd();
  return `${line}…`;
}

function wrapped(context, text, width) {
  const lines = [];
  let line = "";
  for (const word of text.split(/\s+/u)) {
    const longer = line ? `${line} ${word}` : word;
    if (line && context.measureText(longer).width > width) {
      lines.push(line);
      line = word;
    } else {
      line = longer;
    }
  }
  return [...lines, line];
}
