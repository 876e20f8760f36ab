/** Which cache rows move when beams are reordered: only where the pasts of two beams differ. */

/**
 * For each pair of rows of an image, the first position at which their pasts differ.
 *
 * Rows hold a past of `position` tokens. Rows that continue the same parent share all of it; rows
 * that continue different parents differ from where those did.
 */
export class BeamReorder {
  #beams;
  #differFrom; // [image][beam][beam]

  constructor(images, beams) {
    this.#beams = beams;
    const zeros = () => Array.from({ length: beams }, () => new Array(beams).fill(0));
    this.#differFrom = Array.from({ length: images }, zeros);
  }

  /**
   * Record that row n of an image now continues `parents[image][n]`, `position` tokens behind it.
   *
   * @returns {{row: number, source: number, first: number}[]} rows to overwrite, the rows they
   *   copy (indices into images * beams) and the first position that differs
   */
  follow(parents, position) {
    const moves = [];
    if (this.#beams === 1) return moves; // greedy: there is one row
    parents.forEach((chosen, image) => {
      const before = this.#differFrom[image];
      chosen.forEach((parent, beam) => {
        const first = before[beam][parent];
        if (parent === beam || first >= position) return;
        const offset = image * this.#beams;
        moves.push({ row: offset + beam, source: offset + parent, first });
      });
      this.#differFrom[image] = chosen.map((one) =>
        chosen.map((other) => (one === other ? position : before[one][other])),
      );
    });
    return moves;
  }
}
