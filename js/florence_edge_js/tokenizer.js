/** Text to token ids and back, with the piece of text that each token stands for. */

import { BundleError } from "./errors.js";

const MARKERS = new Set(["<s>", "</s>", "<pad>"]);

/**
 * How byte-level BPE cuts a text into words (GPT-2's expression, as in `tokenizers`); its `\s` is
 * Unicode's White_Space, which JavaScript's is not.
 */
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const WORD_CHARACTER = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

const UTF8 = new TextEncoder();

/** Florence-2's byte-level BPE, read from tokenizer.json. */
export class Tokenizer {
  #idOf;
  #tokenOf = [];
  #ranks;
  #added;
  #matchers;
  #prefixSpace;
  #ignoreMerges;
  #words = new Map();
  #begin;
  #end;

  /**
   * @param content a tokenizer.json, parsed
   * @param generation the bundle's settings, for the ids around a prompt
   * @throws {BundleError} it is not a byte-level BPE
   */
  constructor(content, generation) {
    const model = checkedModel(content);
    this.#idOf = new Map(Object.entries(model.vocab));
    for (const [token, id] of this.#idOf) this.#tokenOf[id] = token;
    const pairs = model.merges.map((pair) => (Array.isArray(pair) ? pair.join(" ") : pair));
    this.#ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    const added = content.added_tokens ?? [];
    for (const { content: token, id } of added) this.#tokenOf[id] = token;
    this.#added = new Map(added.map((token) => [token.content, token]));
    this.#prefixSpace = content.pre_tokenizer.add_prefix_space === true;
    this.#ignoreMerges = model.ignore_merges === true;
    // Tokens that are not normalized are found first, in the whole text.
    this.#matchers = [false, true].map((normalized) =>
      matcherOf(added.filter((token) => Boolean(token.normalized) === normalized)),
    );
    // What stands around a prompt is the tokenizer's: a generation may end otherwise, too.
    this.#begin = this.#idFor("<s>") ?? generation.bos_token_id;
    this.#end = this.#idFor("</s>") ?? generation.eos_token_id[0];
  }

  /** `<s>`, the prompt's tokens, `</s>`; what is not Unicode in the prompt becomes U+FFFD. */
  promptIds(prompt) {
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(UTF8.encode(prompt));
    const ids = [];
    for (const part of this.#split(text, 0)) {
      if (typeof part !== "string") ids.push(part.id);
      else for (const word of this.#wordsOf(part)) ids.push(...this.#idsOfWord(word));
    }
    return [this.#begin, ...ids, this.#end];
  }

  /** The text of `ids`, special tokens included. */
  decode(ids) {
    return this.pieces(ids).join("");
  }

  /**
   * The text of each token; joined they are the whole text.
   *
   * A character whose bytes are spread over tokens belongs to the last of them, and bytes that are
   * not UTF-8 become U+FFFD.
   */
  pieces(ids) {
    const text = new TokenText(this);
    const pieces = Array.from(ids, (id) => text.add(id));
    const rest = text.end();
    if (rest) pieces[pieces.length - 1] += rest;
    return pieces;
  }

  /**
   * What to call with growing beginnings of an answer's tokens, and true at its end.
   *
   * `onText` gets what is new of their text, never the half of a character; `<s>`, `</s>` and
   * `<pad>` are left out.
   */
  streamer(onText) {
    const text = new TokenText(this, MARKERS);
    let given = 0;
    return (tokenIds, done) => {
      let piece = tokenIds
        .slice(given)
        .map((id) => text.add(id))
        .join("");
      given = tokenIds.length;
      if (done) piece += text.end();
      if (piece) onText(piece);
    };
  }

  /** The vocabulary's entry for an id, its bytes as printable stand-ins; '' without one. */
  token(id) {
    return this.#tokenOf[id] ?? "";
  }

  /** The bytes that an entry of the vocabulary stands for; null for an added token. */
  bytesOf(token) {
    if (this.#added.has(token)) return null;
    const bytes = Array.from(token, (character) => BYTE_OF.get(character));
    return bytes.includes(undefined) ? UTF8.encode(token) : Uint8Array.from(bytes);
  }

  #idFor(token) {
    return this.#added.get(token)?.id ?? this.#idOf.get(token);
  }

  /** Cut a text at the added tokens: strings, and the tokens between them. */
  #split(text, stage) {
    const matcher = this.#matchers[stage];
    const rest = (part) => (stage === 0 ? this.#split(part, 1) : [part]);
    if (matcher === null) return rest(text);
    const parts = [];
    let at = 0;
    for (const found of text.matchAll(matcher)) {
      const token = this.#added.get(found[0]);
      const start = found.index;
      const end = start + found[0].length;
      if (start < at || (token.single_word && !standsAlone(text, start, end))) continue;
      const before = text.slice(at, start);
      const kept = token.lstrip ? before.replace(/\p{White_Space}+$/u, "") : before;
      if (kept) parts.push(...rest(kept));
      parts.push(token);
      at = token.rstrip ? end + /^\p{White_Space}*/u.exec(text.slice(end))[0].length : end;
    }
    if (at < text.length) parts.push(...rest(text.slice(at)));
    return parts;
  }

  #wordsOf(part) {
    const spaced = this.#prefixSpace && !/^\p{White_Space}/u.test(part) ? ` ${part}` : part;
    return spaced.match(WORDS) ?? [];
  }

  #idsOfWord(word) {
    let ids = this.#words.get(word);
    if (ids === undefined) {
      const characters = Array.from(UTF8.encode(word), (byte) => CHARACTER_OF[byte]);
      const whole = this.#ignoreMerges ? this.#idOf.get(characters.join("")) : undefined;
      ids = whole === undefined ? this.#merged(characters) : [whole];
      this.#words.set(word, ids);
    }
    return ids;
  }

  /** Join the pair of neighbours that was learned first, again and again; of equals the first. */
  #merged(parts) {
    for (;;) {
      let best = Infinity;
      let where = -1;
      for (let at = 0; at + 1 < parts.length; at += 1) {
        const rank = this.#ranks.get(`${parts[at]} ${parts[at + 1]}`) ?? Infinity;
        if (rank < best) [best, where] = [rank, at];
      }
      if (where < 0) break;
      parts.splice(where, 2, parts[where] + parts[where + 1]);
    }
    return parts.map((part) => this.#idOf.get(part)).filter((id) => id !== undefined);
  }
}

/** Tokens in, text out, as soon as their bytes make whole characters. */
class TokenText {
  #tokenizer;
  #leaveOut;
  #utf8 = new TextDecoder("utf-8", { ignoreBOM: true }); // a mark of byte order is text here

  constructor(tokenizer, leaveOut = new Set()) {
    this.#tokenizer = tokenizer;
    this.#leaveOut = leaveOut;
  }

  add(id) {
    const token = this.#tokenizer.token(id);
    const raw = this.#tokenizer.bytesOf(token);
    if (raw !== null) return this.#utf8.decode(raw, { stream: true });
    // An added token ends whatever bytes were pending.
    return this.end() + (this.#leaveOut.has(token) ? "" : token);
  }

  /** What is left of bytes that nothing completes. */
  end() {
    return this.#utf8.decode();
  }
}

/** The model of a tokenizer.json, if it is what Florence-2 has. */
function checkedModel(content) {
  const model = content?.model;
  const kinds = [model?.type, content?.pre_tokenizer?.type, content?.normalizer ?? null];
  const readable =
    kinds[0] === "BPE" &&
    kinds[1] === "ByteLevel" &&
    kinds[2] === null &&
    model.vocab !== null &&
    typeof model.vocab === "object" &&
    Array.isArray(model.merges);
  if (!readable) {
    throw new BundleError(
      `The bundle's tokenizer.json is a ${kinds[0]} after ${kinds[1]}; expected Florence-2's ` +
        "byte-level BPE without a normalizer. Answer with the Python runtime, which reads others.",
    );
  }
  return model;
}

/** Finds tokens in a text, the longest first where several begin; null without any. */
function matcherOf(tokens) {
  if (tokens.length === 0) return null;
  const longestFirst = tokens
    .map((token) => token.content)
    .sort((one, other) => other.length - one.length);
  return new RegExp(
    longestFirst.map((each) => each.replace(/[\\^$.*+?()[\]{}|/]/gu, "\\$&")).join("|"),
    "gu",
  );
}

function standsAlone(text, start, end) {
  const before = Array.from(text.slice(0, start)).at(-1) ?? " ";
  const [after = " "] = text.slice(end);
  return !WORD_CHARACTER.test(before) && !WORD_CHARACTER.test(after);
}

/** GPT-2's printable stand-in for each byte: itself where it prints, else from U+0100 on. */
function byteAlphabet() {
  const prints = (byte) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(prints(byte) ? byte : 0x100 + others++),
  );
}

const CHARACTER_OF = byteAlphabet();
const BYTE_OF = new Map(CHARACTER_OF.map((character, byte) => [character, byte]));
