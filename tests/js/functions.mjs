/** What is compared with the Python runtime, by name; arguments and answers are JSON (cases.py). */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import { generateEach } from "../../js/florence_edge_js/generate.js";
import { resize } from "../../js/florence_edge_js/image.js";
import { RequestError } from "../../js/florence_edge_js/errors.js";
import { resolve } from "../../js/florence_edge_js/options.js";
import { parse } from "../../js/florence_edge_js/parse.js";
import { RelativeBox } from "../../js/florence_edge_js/regions.js";
import { readAnswer } from "../../js/florence_edge_js/result.js";
import { Scores } from "../../js/florence_edge_js/search.js";
import { TASKS, promptFor } from "../../js/florence_edge_js/tasks.js";
import { Tokenizer } from "../../js/florence_edge_js/tokenizer.js";

const TOP_K = 32;
const SOME_GENERATION = { bos_token_id: 0, eos_token_id: [2] };
const tokenizers = new Map();

export const FUNCTIONS = {
  tasks: () =>
    Object.fromEntries(
      Object.entries(TASKS).map(([name, { token, template, answer, needs }]) => [
        name,
        { token, template, answer, needs },
      ]),
    ),

  wording({ task, text, region, relative, image_size }) {
    const given = { text, region: relative ? new RelativeBox(...relative) : region };
    try {
      return promptFor(task, given, image_size).wording;
    } catch (error) {
      if (error instanceof RequestError) return null;
      throw error;
    }
  },

  tokens: ({ tokenizer, prompt }) => tokenizerOf(tokenizer).promptIds(prompt),

  pieces: ({ tokenizer, ids }) => tokenizerOf(tokenizer).pieces(ids),

  parse: ({ task, raw_text, ...about }) => parse(task, raw_text, about),

  result({ task, pieces, ...about }) {
    const result = readAnswer(TASKS[task], pieces, { ...about, text_input: "x" });
    return {
      ...result.to_json(),
      boxes: result.regions.map((region) => region.box),
      normalized: result.normalized_boxes,
      log_probs: result.token_log_probs,
      text: result.text,
      score: result.score,
    };
  },

  kept({ task, pieces, ask, ...about }) {
    const answered = readAnswer(TASKS[task], pieces, { ...about, text_input: null });
    const { min_score, ...kept } = ask;
    try {
      const result = answered.clean().filter(min_score, kept);
      return result.regions.map(({ label, rings, score }) => [label, rings, score]);
    } catch (error) {
      if (error instanceof RequestError) return null;
      throw error;
    }
  },

  resize({ width, height, rgb, side }) {
    const data = new Uint8Array(Buffer.from(rgb, "base64"));
    const into = new Uint8Array(side * side * 3);
    resize({ width, height, data }, side, into);
    return createHash("sha256").update(into).digest("hex");
  },

  async search({ configs, vocab, ...scores }) {
    const size = { vocab_size: vocab, decoder_positions: 64 };
    const agreed = configs.map(() => []);
    const asked = configs.map((config, at) => ({
      config: resolve(null, config, size),
      stop: () => null,
      onTokens: (ids) => agreed[at].push([...ids]),
    }));
    const answers = await generateEach(new TableDecoder(scores), asked);
    return answers.map((answer, at) => ({ ...answer, agreed: agreed[at] }));
  },
};

/** Scores of the next token by the one before and the number of the step; K of them sorted. */
class TableDecoder {
  #tables;
  #sums;
  #step = 0;

  constructor({ tables, log_sum_exp }) {
    this.#tables = tables;
    this.#sums = log_sum_exp;
  }

  async step(tokens) {
    const at = this.#step % this.#tables.length;
    this.#step += 1;
    return tokens.map((rows) => {
      const logits = rows.map((token) => Float32Array.from(this.#tables[at][token]));
      const ids = logits.map((row) =>
        [...row.keys()].sort((one, other) => row[other] - row[one]).slice(0, TOP_K),
      );
      const best = logits.map((row, each) => Float32Array.from(ids[each], (id) => row[id]));
      const sums = Float32Array.from(rows, (token) => this.#sums[at][token]);
      return new Scores(best, ids, sums, () => logits);
    });
  }
}

function tokenizerOf(path) {
  if (!tokenizers.has(path)) {
    const content = JSON.parse(readFileSync(path, "utf8"));
    tokenizers.set(path, new Tokenizer(content, SOME_GENERATION));
  }
  return tokenizers.get(path);
}
