/** The server, as the page speaks to it: requests, streamed answers, WebSockets, errors. */

import { readEvents } from "./event_stream.js";

/** What the server refused, in its own words. */
export class ServerError extends Error {
  constructor(message, { status = 0, type = "", retryAfter = 0 } = {}) {
    super(message);
    this.status = status;
    this.type = type;
    this.retryAfter = retryAfter;
  }

  /** Whether nobody answered at all. */
  get isAway() {
    return this.status === 0 && this.type === "";
  }
}

const UNREACHABLE =
  "The server cannot be reached. Check that florence-serve runs and that this device is in its " +
  "network, then try again.";

/** What the server is: model, device, limits, camera (see GET /v1/info). */
export async function fetchInfo() {
  const response = await send("v1/info", { cache: "no-store" });
  return response.json();
}

/** A file of the page, by its path, under its own name. */
export async function fetchFile(path) {
  const content = await (await send(path, {})).blob();
  return new File([content], path.split("/").pop(), { type: content.type });
}

/** Exchange the access token for a cookie, which WebSockets carry too. */
export async function openSession(token) {
  await send("v1/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
}

/**
 * Ask about a picture.
 *
 * @param picture a Blob, as the file was
 * @param question {task, text?, region?} or {prompt}
 * @param options of generation, by GenerationOptions' names
 * @param signal aborts the request; the server then stops this answer
 * @param onText called with the text so far while the answer is made
 * @returns the reply of POST /v1/answers
 */
export async function ask(picture, question, { options, signal, onText }) {
  const form = new FormData();
  form.append("image", picture, picture.name ?? "picture");
  for (const [name, value] of Object.entries(question)) {
    form.append(name, Array.isArray(value) ? value.join(",") : value);
  }
  if (Object.keys(options).length > 0) form.append("options", JSON.stringify(options));
  form.append("stream", "true");
  const response = await send("v1/answers", { method: "POST", body: form, signal });
  let text = "";
  for await (const { event, data } of readEvents(response.body)) {
    if (event === "text") {
      text += data.text;
      onText(text);
    } else if (event === "error") {
      throw new ServerError(data.error.message, { status: data.error.code, type: data.error.type });
    } else if (event === "done") {
      return data;
    }
  }
  throw new ServerError(
    "The server broke off in the middle of its answer. Try again; its log says why.",
    { type: "broken_off" },
  );
}

/** A WebSocket of the server, by the path that follows the page's own address. */
export function openSocket(path) {
  const address = new URL(path, document.baseURI);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.binaryType = "blob";
  return socket;
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(UNREACHABLE);
  }
  if (response.ok) return response;
  throw await refusal(response);
}

async function refusal(response) {
  const facts = { status: response.status, retryAfter: Number(response.headers.get("Retry-After")) };
  try {
    const { error } = await response.json();
    return new ServerError(error.message, { ...facts, type: error.type });
  } catch {
    // A proxy in between answers in words of its own.
    return new ServerError(
      `The server answered with status ${response.status}. If a proxy stands before it, look there.`,
      facts,
    );
  }
}
