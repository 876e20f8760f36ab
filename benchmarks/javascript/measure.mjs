/** Measures systems in turn, so that whatever else the machine does meets all of them. */

const WARM_UP = 1;

/** A picture of smooth noise, the same everywhere. */
export function picture(width = 640, height = 480) {
  const data = new Uint8Array(width * height * 3);
  for (let at = 0; at < data.length; at += 1) {
    data[at] = 128 + 90 * Math.sin(at / 997) + 30 * Math.sin((at % (width * 3)) / 41);
  }
  return { width, height, data };
}

/**
 * @param systems of systems.mjs, loaded
 * @param {{rounds: number, tokens: number}} plan
 * @returns {Record<string, {vision: number[], greedy: number[], beams: number[]}>} by system, one
 *   figure a round: seconds of the vision encoder, and the median seconds of a step
 */
export async function measured(systems, { rounds, tokens }) {
  const found = Object.fromEntries(
    systems.map(({ name }) => [name, { vision: [], greedy: [], beams: [] }]),
  );
  for (let round = -WARM_UP; round < rounds; round += 1) {
    for (const system of systems) {
      const seconds = {
        vision: await system.vision(picture()),
        greedy: stepOf(await system.answer(1, tokens)),
        beams: stepOf(await system.answer(3, tokens)),
      };
      if (round < 0) continue;
      for (const [name, value] of Object.entries(seconds)) {
        if (value !== null) found[system.name][name].push(value);
      }
    }
  }
  return found;
}

/** The median time between two tokens, in seconds. */
function stepOf(times) {
  if (times === null) return null;
  return median(times.slice(1).map((time, at) => (time - times[at]) / 1000));
}

export function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
