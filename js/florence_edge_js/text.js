/** What Python's `str` counts as white space and digits; JavaScript's `trim` and `\d` differ. */

const SPACE =
  "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const LEADING = new RegExp(`^${SPACE}+`, "u");
const ONE = new RegExp(SPACE, "u");
const DIGIT = /^\p{Nd}$/u;

export function lstrip(text) {
  return text.replace(LEADING, "");
}

export function rstrip(text) {
  let end = text.length; // from the end: a regular expression would try every run of spaces
  while (end > 0 && ONE.test(text[end - 1])) end -= 1;
  return text.slice(0, end);
}

export function strip(text) {
  return lstrip(rstrip(text));
}

/** The parts between white space, as Python's `split` gives them. */
export function words(text) {
  return text.split(ONE).filter((word) => word !== "");
}

/** Decimal digits of any script as ASCII: Unicode keeps them in runs of ten, from zero on. */
export function asciiDigits(digits) {
  return digits.replace(/[^0-9]/gu, (digit) => {
    const code = digit.codePointAt(0);
    let before = 0;
    while (DIGIT.test(String.fromCodePoint(code - before - 1))) before += 1;
    return String(before % 10);
  });
}
