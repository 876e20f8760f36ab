/** How to generate: what the caller asks for, and what the checkpoint fills in. */

import { MAX_BEAMS } from "./contract.js";
import { RequestError } from "./errors.js";

// options.py has the reasons for these ranges.
const LENGTH_PENALTIES = [-1, 10];
const REPETITION_PENALTIES = [0.01, 100];

/**
 * Fill what `options` leaves open from `defaults`, and check it against the model.
 *
 * @param options GenerationOptions under Hugging Face's names, or nothing
 * @param defaults the settings of the bundle's manifest
 * @param size of the model, as in the manifest
 * @returns settings with nothing left open, frozen
 * @throws {RequestError} a value is out of range, or an option does not exist
 */
export function resolve(options, defaults, size) {
  if (options != null && (typeof options !== "object" || Array.isArray(options))) {
    throw new RequestError(
      `options are ${shown(options)}; expected an object such as {num_beams: 1}.`,
    );
  }
  const readers = readersFor(size);
  for (const name of Object.keys(options ?? {})) {
    if (name !== "max_time" && !(name in readers && OPEN.has(name))) {
      throw new RequestError(
        `There is no option ${name}. The options are: ${[...OPEN, "max_time"].join(", ")}.`,
      );
    }
  }
  checkTime(options?.max_time);
  const config = Object.fromEntries(
    Object.entries(readers).map(([name, read]) => [
      name,
      read(name, options?.[name] ?? defaults[name]),
    ]),
  );
  config.max_length = 1 + config.max_new_tokens; // the start token included
  // How many tokens stand before the one that `begin_suppress_tokens` hold for.
  config.begin_length = config.forced_bos_token_id < 0 ? 1 : 2;
  checkForced(config);
  return Object.freeze(config);
}

/** What a caller may set; the other settings are the checkpoint's. */
const OPEN = new Set([
  "num_beams",
  "max_new_tokens",
  "min_new_tokens",
  "no_repeat_ngram_size",
  "repetition_penalty",
  "length_penalty",
  "early_stopping",
  "forced_bos_token_id",
  "forced_eos_token_id",
  "suppress_tokens",
  "begin_suppress_tokens",
  "bad_words_ids",
  "eos_token_id",
]);

function readersFor({ vocab_size, decoder_positions: positions }) {
  const last = vocab_size - 1;
  const token = whole(0, last, `a token id from 0 to ${last}`);
  const orOff = whole(-1, last, `a token id up to ${last}, or -1 (off)`);
  const tokens = (name, value) => items(name, value).map((item) => token(name, item));
  return {
    num_beams: whole(1, MAX_BEAMS, `1 (greedy) to ${MAX_BEAMS}`),
    max_new_tokens: whole(1, positions, `1 to ${positions}, this model's decoder positions`),
    min_new_tokens: whole(0, positions, `0 (off) to ${positions}`),
    no_repeat_ngram_size: whole(0, Infinity, "0 (off) or more"),
    repetition_penalty: numberBetween(...REPETITION_PENALTIES),
    length_penalty: numberBetween(...LENGTH_PENALTIES),
    early_stopping: earlyStopping,
    forced_bos_token_id: orOff,
    forced_eos_token_id: orOff,
    suppress_tokens: tokens,
    begin_suppress_tokens: tokens,
    bad_words_ids: (name, value) => words(name, value, tokens),
    bos_token_id: token,
    decoder_start_token_id: token,
    eos_token_id: (name, value) => ends(name, value, tokens, last),
    pad_token_id: token,
  };
}

function whole(lowest, highest, expected) {
  return (name, value) => {
    if (!Number.isInteger(value) || value < lowest || value > highest) {
      throw new RequestError(`${name} is ${shown(value)}; it must be a whole number: ${expected}.`);
    }
    return value;
  };
}

function numberBetween(lowest, highest) {
  return (name, value) => {
    if (!Number.isFinite(value) || value < lowest || value > highest) {
      throw new RequestError(
        `${name} is ${shown(value)}; it must be a number from ${lowest} to ${highest}.`,
      );
    }
    return value;
  };
}

function earlyStopping(name, value) {
  if (value === true || value === false || value === "never") return value;
  throw new RequestError(`${name} is ${shown(value)}; it must be true, false or 'never'.`);
}

function items(name, value) {
  if (!Array.isArray(value)) {
    throw new RequestError(`${name} is ${shown(value)}; it must be a list of token ids.`);
  }
  return value;
}

function words(name, value, tokens) {
  if (!Array.isArray(value)) {
    throw new RequestError(`${name} is ${shown(value)}; it must be a list of lists of token ids.`);
  }
  const read = value.map((word) => tokens(name, word));
  if (read.some((word) => word.length === 0)) {
    throw new RequestError(`${name} has an empty list; each must hold token ids.`);
  }
  return read;
}

function ends(name, value, tokens, last) {
  const read = [...new Set(tokens(name, Number.isInteger(value) ? [value] : value))];
  if (read.length === 0 || read.length > last) {
    throw new RequestError(
      `${name} has ${read.length} tokens; it must have one or more, and leave others.`,
    );
  }
  return read;
}

function checkTime(maxTime) {
  if (maxTime != null && !(Number.isFinite(maxTime) && maxTime > 0)) {
    throw new RequestError(
      `max_time is ${shown(maxTime)}; it must be a number of seconds above 0.`,
    );
  }
}

/** A token cannot be forced and forbidden in one place: nothing would be left. */
function checkForced(config) {
  for (const name of ["forced_bos_token_id", "forced_eos_token_id"]) {
    if (config.suppress_tokens.includes(config[name])) {
      throw new RequestError(
        `${name} is ${config[name]}, which suppress_tokens forbid. Leave it out of one of them; ` +
          "min_new_tokens keeps an answer from ending early.",
      );
    }
  }
  const end = config.forced_eos_token_id;
  const first = config.max_new_tokens === config.begin_length;
  if (first && config.begin_suppress_tokens.includes(end)) {
    throw new RequestError(
      `max_new_tokens is ${config.max_new_tokens}, where forced_eos_token_id ${end} comes first, ` +
        "and begin_suppress_tokens forbid it. Ask for a longer answer.",
    );
  }
}

/** A value for a message. */
export function shown(value) {
  let text;
  try {
    text = JSON.stringify(value) ?? String(value);
  } catch {
    text = String(value); // a circle, or a BigInt
  }
  return text.slice(0, 80);
}

/** A misspelt argument would otherwise be left out silently. */
export function checkNames(given, known) {
  if (given === null || typeof given !== "object") {
    throw new RequestError(
      `Arguments are given by name, such as { ${known[0]}: ... }; got ${shown(given)}.`,
    );
  }
  for (const name of Object.keys(given)) {
    if (!known.includes(name)) {
      throw new RequestError(
        `There is no argument ${name}. The arguments are: ${known.join(", ")}.`,
      );
    }
  }
}
