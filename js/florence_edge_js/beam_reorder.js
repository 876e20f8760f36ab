/** Which rows of the cache beams have, and which move: few, and no further back than needed. */

/**
 * The rows of the beams of each image, and the first position at which the pasts of two rows differ.
 *
 * Rows hold a past of `position` tokens. A beam stays in the row of the beam that it continues; only
 * where several continue the same one, the others get the rows of those that nobody continues. So no
 * row is overwritten that is read. Rows that continue the same past share all of it; rows that
 * continue different ones differ from where those did.
 */
export class BeamReorder {
  #beams;
  #rows; // [image][beam]
  #differFrom; // [image][row][row]

  constructor(images, beams) {
    const numbers = Array.from({ length: beams }, (_, beam) => beam);
    const zeros = () => numbers.map(() => new Array(beams).fill(0));
    this.#beams = beams;
    this.#rows = Array.from({ length: images }, () => numbers);
    this.#differFrom = Array.from({ length: images }, zeros);
  }

  /** The row of each beam of an image, as indices into images * beams. */
  rowsOf(image) {
    return this.#rows[image].map((row) => image * this.#beams + row);
  }

  /**
   * Record that beam n of an image now continues `parents[image][n]`, `position` tokens behind it.
   *
   * @returns {{row: number, source: number, first: number}[]} rows to overwrite, the rows they
   *   copy (indices into images * beams) and the first position that differs
   */
  follow(parents, position) {
    if (this.#beams === 1) return []; // greedy: there is one row
    return parents.flatMap((chosen, image) => this.#followOne(image, chosen, position));
  }

  #followOne(image, chosen, position) {
    const before = this.#differFrom[image];
    const sources = chosen.map((parent) => this.#rows[image][parent]);
    const free = before.map((_, row) => row).filter((row) => !sources.includes(row));
    const pasts = before.map((_, row) => row); // which row's past each row has from now on
    const moves = [];
    this.#rows[image] = sources.map((source, beam) => {
      if (sources.indexOf(source) === beam) return source;
      const row = free.reduce((one, other) =>
        before[other][source] > before[one][source] ? other : one,
      );
      free.splice(free.indexOf(row), 1);
      pasts[row] = source;
      const first = before[row][source];
      const offset = image * this.#beams;
      if (first < position) moves.push({ row: offset + row, source: offset + source, first });
      return row;
    });
    this.#differFrom[image] = pasts.map((one) =>
      pasts.map((other) => (one === other ? position : before[one][other])),
    );
    return moves;
  }
}
