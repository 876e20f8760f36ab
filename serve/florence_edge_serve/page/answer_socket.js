/** A WebSocket that answers about pictures: asks, opens again when it is lost, hands out messages. */

import { ServerError, openSocket } from "./client.js";

const FIRST_WAIT = 500; // milliseconds before a lost connection is opened again; then doubled
const LONGEST_WAIT = 8000;
const REFUSED = 1008; // a wrong token or origin: opening again would be refused again
const REASONS = {
  1009: "The picture is larger than this server takes (--max-upload).",
  1012: "The server is restarting. The page goes on when it is back.",
  1013: "The server has more viewers than it can serve. Trying again.",
};
const LOST = "The connection to the server was lost. The page goes on when it is back.";

/**
 * @param path of the WebSocket, relative to the page
 * @param told {onOpen(), onPicture(blob), onAnswers(message, late), onText(message),
 *   onWaiting(words), onError(ServerError), onRefused(words)}
 */
export class AnswerSocket {
  #path;
  #told;
  #socket = null;
  #question = null;
  #wait = FIRST_WAIT;
  #timer = 0;
  #taken = 0;

  constructor(path, told) {
    this.#path = path;
    this.#told = told;
  }

  open() {
    this.close();
    const socket = openSocket(this.#path);
    this.#socket = socket;
    this.#taken = 0;
    socket.addEventListener("open", () => {
      this.#wait = FIRST_WAIT;
      if (this.#question) this.#sendQuestion();
      this.#told.onOpen?.();
    });
    socket.addEventListener("message", ({ data }) => {
      if (socket === this.#socket) this.#receive(data);
    });
    socket.addEventListener("close", (event) => {
      if (socket === this.#socket) this.#lost(event);
    });
  }

  /** What is to be answered from now on. */
  ask(question) {
    this.#question = question;
    if (this.isOpen) this.#sendQuestion();
  }

  /** Send an encoded picture. */
  send(blob) {
    if (this.isOpen) this.#socket.send(blob);
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  close() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
  }

  #sendQuestion() {
    this.#socket.send(JSON.stringify({ type: "ask", ...this.#question }));
  }

  #receive(data) {
    if (typeof data !== "string") {
      this.#told.onPicture?.(data);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "asked") this.#taken = message.ask;
    else if (message.type === "text") this.#told.onText?.(message);
    else if (message.type === "waiting") this.#told.onWaiting(message.message);
    else if (message.type === "error") {
      const { code: status, type, message: words } = message.error;
      this.#told.onError(new ServerError(words, { status, type }));
    } else if (message.type === "answers") {
      const late = (message.ask ?? 0) < this.#taken; // it answers an earlier question
      this.#told.onAnswers(message, late);
    }
  }

  #lost({ code, reason }) {
    this.#socket = null;
    if (code === REFUSED) {
      this.#told.onRefused(reason || "The server refused this page. Reload it, or enter the token.");
      return;
    }
    this.#told.onWaiting(REASONS[code] ?? LOST);
    this.#timer = setTimeout(() => this.open(), this.#wait);
    this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT);
  }
}
