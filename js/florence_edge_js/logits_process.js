/**
 * Which tokens may come next: Hugging Face's logits processors, in the order of `generate`.
 *
 *     repetition_penalty ─> no_repeat_ngram_size, bad_words_ids, min_new_tokens ─> forced tokens
 *       ─> suppress_tokens, begin_suppress_tokens
 *
 * In greedy search they act on logits, in beam search on log-probabilities, as they do there.
 */

const { fround } = Math;

/** Tokens that would complete an n-gram of `size` tokens which `sequence` [L] already has. */
export function repeatedNgramTokens(sequence, size) {
  const count = sequence.length - size + 1;
  const banned = [];
  if (size === 0 || count < 1) return banned;
  for (let at = 0; at < count; at += 1) {
    let same = true;
    for (let i = 0; same && i < size - 1; i += 1) same = sequence[at + i] === sequence[count + i];
    if (same) banned.push(sequence[at + size - 1]);
  }
  return banned;
}

/** The only token allowed after `length` tokens (the start token counts), or null. */
export function forcedToken(length, config) {
  if (length === config.max_length - 1 && config.forced_eos_token_id >= 0) {
    return config.forced_eos_token_id;
  }
  if (length === 1 && config.forced_bos_token_id >= 0) return config.forced_bos_token_id;
  return null;
}

/**
 * The rules of one generation, for where no token is forced.
 *
 * `penalizes` says whether they weigh tokens at all, `raises` whether they may lift some: then no
 * token outside of the best can be ruled out without its score.
 */
export class LogitsProcessors {
  #config;
  #penalty;
  #never;
  #lastOf = new Map();
  #begun;

  constructor(config) {
    this.#config = config;
    this.#penalty = fround(config.repetition_penalty);
    this.penalizes = config.repetition_penalty !== 1;
    this.raises = config.repetition_penalty < 1;
    // A bad word of one token that ends answers does not count.
    const words = config.bad_words_ids.filter(
      (word) => word.length > 1 || !config.eos_token_id.includes(word[0]),
    );
    const alone = words.filter((word) => word.length === 1).map((word) => word[0]);
    this.#never = new Set([...alone, ...config.suppress_tokens]);
    for (const word of words) {
      if (word.length === 1) continue;
      const key = word.slice(0, -1).join();
      this.#lastOf.set(key, [...(this.#lastOf.get(key) ?? []), word.at(-1)]);
    }
    const sizes = words.map((word) => word.length - 1).filter((size) => size > 0);
    this.#begun = [...new Set(sizes)];
  }

  /** Tokens that may not follow `sequence` [L], the start token included. */
  banned(sequence) {
    const config = this.#config;
    const { length } = sequence;
    const now = repeatedNgramTokens(sequence, config.no_repeat_ngram_size);
    if (length <= config.min_new_tokens) now.push(...config.eos_token_id);
    if (length === config.begin_length) now.push(...config.begin_suppress_tokens);
    for (const size of this.#begun) {
      if (size > length) continue;
      now.push(...(this.#lastOf.get(sequence.slice(length - size).join()) ?? []));
    }
    return now.length > 0 ? new Set([...this.#never, ...now]) : this.#never;
  }

  /** Apply the rules to the scores [vocab] of what follows `sequence` [L], in place. */
  process(scores, sequence) {
    if (this.penalizes) {
      for (const token of new Set(sequence)) scores[token] = this.#penalized(scores[token]);
    }
    for (const token of this.banned(sequence)) scores[token] = -Infinity;
  }

  /** The same for the scores [n] of the tokens `ids` [n], some of which are `banned`. */
  processSome(scores, ids, sequence, banned) {
    if (this.penalizes) {
      const said = new Set(sequence);
      ids.forEach((token, at) => {
        if (said.has(token)) scores[at] = this.#penalized(scores[at]);
      });
    }
    if (banned.size === 0) return;
    ids.forEach((token, at) => {
      if (banned.has(token)) scores[at] = -Infinity;
    });
  }

  #penalized(score) {
    return fround(score < 0 ? score * this.#penalty : score / this.#penalty);
  }
}
