/**
 * Choosing tokens: greedy and beam search over scores, equal to Hugging Face `generate`.
 *
 * A search serves one image. It sees scores and answers with the tokens to feed next and the rows
 * they continue (`parents`); it never sees the model or its cache.
 *
 *     const search = openSearch(config);
 *     let step;
 *     do step = search.advance(await decoder.step(...)); while (!step.done);
 *     search.best();
 *
 * It computes in float32 as numpy and torch do (`Math.fround` after each operation), so that ties
 * and sums fall as they fall there.
 */

import { LogitsProcessors, forcedToken } from "./logits_process.js";

const { fround } = Math;

/** The score of beams that do not exist yet and of candidates that are out (Hugging Face's). */
const OUT = -1e9;

/**
 * Logits of the next token of each row, before any rule is applied.
 *
 * The best K of a row come sorted, best first. `log_sum_exp` is the logarithm of the sum of
 * exp(logit - best logit) over the vocabulary, as in a log-softmax that cannot overflow.
 */
export class Scores {
  /**
   * @param {Float32Array[]} topLogits of each row, [K]
   * @param {(number[] | Int32Array)[]} topIds of each row, [K]
   * @param {Float32Array} logSumExp [rows]
   * @param {() => Float32Array[]} logits of each row, [vocab]; costs a copy and is rarely needed
   */
  constructor(topLogits, topIds, logSumExp, logits) {
    this.topLogits = topLogits;
    this.topIds = topIds;
    this.logSumExp = logSumExp;
    this.logits = logits;
  }

  /** Log-probabilities of some logits of a row, subtracted in log-softmax's order. */
  logProbs(row, logits) {
    const best = this.topLogits[row][0];
    const sum = this.logSumExp[row];
    return logits.map((logit) => fround(logit - best) - sum); // stored as float32
  }

  /** Log-probabilities of one token in each row. */
  logProbsOf(token) {
    return this.logits().map((row, at) => this.logProbs(at, row.subarray(token, token + 1))[0]);
  }
}

/**
 * Choices that have the best `count` of a row; what else there may be is worse than these.
 *
 * The top K decide as long as `count` of them keep more than the last of the K had: no token
 * outside can be better, unless the rules raise some. `onLogits` has the rules see the logits.
 *
 * @returns {{scores: Float32Array, logProbs: Float32Array, ids: number[] | null}[]} of each row:
 *   after the rules, before any rule, and the tokens (null: all of the vocabulary, in order)
 */
function choicesOf(scores, rules, sequences, count, onLogits = false) {
  const processed = sequences.map((sequence, row) => {
    const banned = rules.banned(sequence);
    // Where tokens are only banned, no others than these can be among the best.
    const most = rules.penalizes ? undefined : count + banned.size;
    const ids = scores.topIds[row].slice(0, most);
    const logits = scores.topLogits[row].slice(0, most);
    const logProbs = scores.logProbs(row, logits);
    const values = onLogits ? logits : logProbs.slice();
    const last = values.at(-1);
    rules.processSome(values, ids, sequence, banned);
    const kept = values.filter((value) => value >= last && Number.isFinite(value)).length;
    return { scores: values, logProbs, ids, enough: kept >= count };
  });
  if (!rules.raises && processed.every((row) => row.enough)) return processed;
  return scores.logits().map((logits, row) => {
    const logProbs = scores.logProbs(row, logits);
    const values = (onLogits ? logits : logProbs).slice();
    rules.process(values, sequences[row]);
    return { scores: values, logProbs, ids: null };
  });
}

/**
 * What to feed next: a token a row, and the row of the previous step that it continues.
 *
 * @typedef {{tokens: number[], parents: number[], done: boolean}} Step
 *
 * Why an answer stopped before its end: the longest length, `max_time`, or `cancel`.
 *
 * @typedef {"length" | "time" | "cancel"} CutOff
 *
 * A finished sequence from the start token on, with the log-probability of each next token.
 *
 * @typedef {{token_ids: number[], log_probs: number[], score: number, cut_off: CutOff | null}}
 *   Hypothesis
 */

/** Takes the most probable token that is allowed. */
export class Greedy {
  rows = 1;
  #config;
  #rules;
  #tokens;
  #logProbs = [];
  #last = null;

  constructor(config) {
    this.#config = config;
    this.#rules = new LogitsProcessors(config);
    this.#tokens = [config.decoder_start_token_id];
  }

  advance(scores, last = null) {
    this.#last = last;
    const { token, logProb } = this.#choose(scores);
    this.#tokens.push(token);
    this.#logProbs.push(logProb);
    const full = this.#tokens.length === this.#config.max_length;
    const done = last !== null || full || this.#config.eos_token_id.includes(token);
    return { tokens: [token], parents: [0], done };
  }

  best() {
    const end = this.#tokens.length - 1;
    return {
      token_ids: this.#tokens,
      log_probs: this.#logProbs,
      score: this.#logProbs.reduce((sum, each) => sum + each, 0),
      cut_off: cutOff(this.#tokens[end], end, this.#config, this.#last),
    };
  }

  /** The tokens that the answer is certain to begin with: all there are. */
  agreed() {
    return this.#tokens;
  }

  #choose(scores) {
    const forced = forcedToken(this.#tokens.length, this.#config);
    if (forced !== null) return { token: forced, logProb: scores.logProbsOf(forced)[0] };
    const [row] = choicesOf(scores, this.#rules, [this.#tokens], 1, true);
    const best = row.scores.reduce((most, value, at) => (value > row.scores[most] ? at : most), 0);
    return { token: row.ids ? row.ids[best] : best, logProb: row.logProbs[best] };
  }
}

/** Why a sequence ends with `token`, after `length` others; null where the model ended it. */
function cutOff(token, length, config, last) {
  const full = length + 1 === config.max_length;
  const forced = full && forcedToken(length, config) !== null;
  if (config.eos_token_id.includes(token) && !forced) return null;
  return full ? "length" : last;
}

/**
 * Hugging Face's beam search (transformers 5, `GenerationMixin._beam_search`).
 *
 * Of the 2N best continuations the first N may finish; the best N that go on are the new beams.
 * Where E tokens end an answer, they are the best (1 + E)N, so that N are left that go on.
 */
export class BeamSearch {
  #config;
  #rules;
  #kept;
  #beams; // {tokens, logProbs, score} of each
  #finished = [];
  #done = false;

  constructor(config) {
    this.rows = config.num_beams;
    this.#config = config;
    this.#rules = new LogitsProcessors(config);
    this.#kept = (1 + config.eos_token_id.length) * this.rows;
    // All beams start alike: only the first may be continued, or they would stay alike.
    this.#beams = Array.from({ length: this.rows }, (_, beam) => ({
      tokens: [config.decoder_start_token_id],
      logProbs: [],
      score: beam === 0 ? 0 : OUT,
    }));
  }

  advance(scores, last = null) {
    const candidates = this.#continuations(scores);
    const ends = this.#ends(candidates, last);
    this.#finish(candidates, ends, last);
    const running = this.#goOn(candidates, ends);
    this.#done = this.#isDone(ends);
    return {
      tokens: running.map((each) => each.token),
      parents: running.map((each) => each.parent),
      done: this.#done,
    };
  }

  best() {
    return this.#finished[0];
  }

  /**
   * The tokens that the answer is certain to begin with; once done, all of them.
   *
   * Whatever may still win continues a running beam or is complete already, so what all of these
   * have in common cannot be taken back.
   */
  agreed() {
    if (this.#done) return this.best().token_ids;
    const alive = this.#beams.filter((beam) => beam.score > OUT / 2).map((beam) => beam.tokens);
    const rows = [...alive, ...this.#finished.map((each) => each.token_ids)];
    if (rows.length === 0) return this.#beams[0].tokens.slice(0, 1); // NaN keeps no beam alive
    const length = Math.min(...rows.map((row) => row.length));
    let same = 0;
    while (same < length && rows.every((row) => row[same] === rows[0][same])) same += 1;
    return rows[0].slice(0, same);
  }

  get #length() {
    return this.#beams[0].tokens.length;
  }

  /** The best (1 + E)N tokens over all beams, or every beam with its forced token. */
  #continuations(scores) {
    const forced = forcedToken(this.#length, this.#config);
    if (forced !== null) {
      const logProbs = scores.logProbsOf(forced);
      return this.#beams.map((beam, parent) => ({
        score: beam.score,
        parent,
        token: forced,
        logProb: logProbs[parent],
      }));
    }
    const sequences = this.#beams.map((beam) => beam.tokens);
    const rows = choicesOf(scores, this.#rules, sequences, this.#kept);
    const totals = rows.map((row, parent) => {
      const { score } = this.#beams[parent];
      return row.scores.map((value) => value + score); // stored as float32
    });
    return largest(totals, this.#kept).map(([parent, at]) => ({
      score: totals[parent][at],
      parent,
      token: rows[parent].ids ? rows[parent].ids[at] : at,
      logProb: rows[parent].logProbs[at],
    }));
  }

  /** Which candidates are complete: by the end token, or all, if nothing may follow. */
  #ends(candidates, last) {
    const all = last !== null || this.#length + 1 === this.#config.max_length;
    return candidates.map(({ token }) => all || this.#config.eos_token_id.includes(token));
  }

  /** Keep the best N complete sequences, among them those of the first N candidates. */
  #finish(candidates, ends, last) {
    const penalty = this.#penalty(this.#length);
    candidates.slice(0, this.rows).forEach(({ score, parent, token, logProb }, at) => {
      if (!ends[at]) return;
      const beam = this.#beams[parent];
      this.#finished.push({
        token_ids: [...beam.tokens, token],
        log_probs: [...beam.logProbs, logProb],
        score: fround(score / penalty),
        cut_off: cutOff(token, this.#length, this.#config, last),
      });
    });
    this.#finished.sort((one, other) => other.score - one.score); // stable: the earlier first
    this.#finished.length = Math.min(this.#finished.length, this.rows);
  }

  /** The best N candidates that are not complete become the beams. */
  #goOn(candidates, ends) {
    const running = candidates
      .map((each, at) => ({ ...each, score: fround(each.score + (ends[at] ? OUT : 0)) }))
      .sort((one, other) => other.score - one.score)
      .slice(0, this.rows);
    this.#beams = running.map(({ score, parent, token, logProb }) => ({
      tokens: [...this.#beams[parent].tokens, token],
      logProbs: [...this.#beams[parent].logProbs, logProb],
      score,
    }));
    return running;
  }

  #isDone(ends) {
    const config = this.#config;
    const all = ends.every(Boolean);
    if (all || this.#finished.length < this.rows) return all;
    if (config.early_stopping === true) return true;
    // What the best beam can still reach, if it grew no longer (or to the full length).
    const longest = config.early_stopping === "never" && config.length_penalty > 0;
    const length = longest ? config.max_length - 1 : this.#length - 1;
    const reachable = fround(this.#beams[0].score / this.#penalty(length));
    return !(reachable > this.#finished.at(-1).score);
  }

  #penalty(generated) {
    return fround(generated ** this.#config.length_penalty);
  }
}

/** Where the `count` largest are, [row, column]: the largest first, the earlier of equals first. */
function largest(rows, count) {
  const best = []; // sorted; insertion keeps the earlier of equals in front
  rows.forEach((row, parent) => {
    row.forEach((value, at) => {
      if (best.length === count && !(value > best.at(-1).value)) return;
      let place = best.length;
      while (place > 0 && value > best[place - 1].value) place -= 1;
      best.splice(place, 0, { value, parent, at });
      if (best.length > count) best.pop();
    });
  });
  return best.map(({ parent, at }) => [parent, at]);
}

/** Greedy for one beam, beam search for more. */
export function openSearch(config) {
  return config.num_beams === 1 ? new Greedy(config) : new BeamSearch(config);
}
