/**
 * What a model's slips leave in its answers, and how to take it out.
 *
 * A location too many or too few shifts what follows: a token gets into a label, or a box has no
 * area. The originals keep such regions, and so does `readAnswer`.
 */

import { Region, hasArea } from "./regions.js";
import { words } from "./text.js";

// Of a location the originals may take the bracket for the end of something else.
const STRAY_TOKEN = /<?loc_\p{Nd}+>|<\/?(?:s|pad|sep|poly)>/gu;

/**
 * The regions that have an area, their labels without tokens.
 *
 * A label that is nothing but tokens loses its region: its box is made of the wrong locations.
 */
export function cleaned(regions) {
  return regions.flatMap((region) => {
    const without = region.label.replace(STRAY_TOKEN, " ");
    const slipped = without !== region.label;
    const label = slipped ? words(without).join(" ") : region.label;
    const rings = region.rings.filter((ring) => hasArea(ring, region.shape));
    if (rings.length === 0 || (slipped && label === "")) return [];
    return [new Region({ ...region, label, rings })];
  });
}
