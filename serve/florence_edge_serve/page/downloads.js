/** Results as files and on the clipboard. */

const FREED_AFTER = 10_000; // milliseconds: a browser has read the address by then

export function saveJson(name, value) {
  const text = `${JSON.stringify(value, null, 2)}\n`;
  save(name, new Blob([text], { type: "application/json" }));
}

/** Save a canvas as PNG. */
export async function saveCanvas(name, canvas) {
  save(name, await new Promise((done) => canvas.toBlob(done, "image/png")));
}

/** Copy a text; over plain http, where a page has no clipboard, by the older way. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** `street-od` of the picture `street.jpg` and the task `OD`. */
export function stemFor(pictureName, task) {
  const stem = (pictureName || "picture").replace(/\.[^.]*$/u, "").replace(/[^\w.-]+/gu, "_");
  return `${stem || "picture"}-${task.toLowerCase()}`;
}

function save(name, blob) {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), FREED_AFTER);
}
