/**
 * Colours of labels: the palette and the rule of florence_edge/results/draw.py, so that a label has
 * one colour on the page, in `florence-run --output` and from picture to picture.
 */

/** Okabe and Ito's palette without its black, which colour-blind eyes tell apart; then Tol's. */
export const PALETTE = [
  "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2",
  "#d55e00", "#cc79a7", "#882255", "#999933", "#bbbbbb",
];

export const INK = "#121214";
export const PAPER = "#fafafa";

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) {
    value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  }
  return value;
});

/** CRC-32 (ISO 3309) of a text's UTF-8, as `zlib.crc32` of Python computes it. */
export function crc32(text) {
  let value = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) {
    value = CRC_TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  }
  return (value ^ 0xffffffff) >>> 0;
}

/**
 * Gives labels their colours, and remembers them for as long as it lives.
 *
 * Two labels share a colour only when the palette is used up. Regions without a label are told
 * apart by their number, and these colours are not remembered.
 */
export class LabelColours {
  #slots = new Map();

  /** One colour (#rrggbb) for each region, in their order. */
  of(regions) {
    const here = new Map();
    for (const name of namesOf(regions)) {
      if (here.has(name)) continue;
      const known = this.#slots.get(name);
      here.set(name, known ?? freeSlot(name, here, this.#slots));
      if (typeof name === "string") this.#slots.set(name, here.get(name));
    }
    return namesOf(regions).map((name) => PALETTE[here.get(name)]);
  }
}

function namesOf(regions) {
  return regions.map((region, number) => region.label || number);
}

/** The first slot from the label's own on that neither this picture nor an earlier label uses. */
function freeSlot(name, here, before) {
  const wanted = typeof name === "number" ? name : crc32(name);
  const order = PALETTE.map((_, step) => (wanted + step) % PALETTE.length);
  const inPicture = new Set(here.values());
  const ever = new Set([...inPicture, ...before.values()]);
  return (
    order.find((slot) => !ever.has(slot)) ?? order.find((slot) => !inPicture.has(slot)) ?? order[0]
  );
}

/** Dark or light ink, whichever reads better on a colour (#rrggbb). */
export function readableOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 110 ? INK : PAPER;
}
