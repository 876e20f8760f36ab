/** Whether the server is there, what it is, and the token it may want. */

import { fetchInfo, openSession } from "./client.js";
import { bytes } from "./pictures.js";

const WRONG_TOKEN = "This is not the server’s token. Check it, and enter it again.";
const AGAIN_AFTER = 4000; // milliseconds until a server that was away is looked for again

/**
 * @param parts {state, facts, limits, cameraTab, beams, maxNewTokens, tokenCard, tokenForm, token,
 *   tokenError}: the elements
 * @param told {onReady(info), onError(error)}
 */
export class ServerState {
  #parts;
  #told;
  #timer = 0;

  constructor(parts, told) {
    this.#parts = parts;
    this.#told = told;
    parts.tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#unlock();
    });
  }

  /** Ask the server what it is, again and again until it answers. */
  async meet() {
    clearTimeout(this.#timer);
    let info;
    try {
      info = await fetchInfo();
    } catch (error) {
      this.#set("bad", "not reachable");
      this.#told.onError(error);
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.meet(), AGAIN_AFTER);
      return;
    }
    const locked = info.token === "required";
    this.#parts.tokenCard.hidden = !locked;
    if (locked) {
      this.#set("wait", "locked");
      return;
    }
    this.#set("good", "ready");
    this.#show(info);
    this.#told.onReady(info);
  }

  /** Bring up the field for the token, as a request was refused without it. */
  wantToken() {
    this.#parts.tokenCard.hidden = false;
    this.#set("wait", "locked");
  }

  async #unlock() {
    const { token, tokenError } = this.#parts;
    tokenError.textContent = "";
    try {
      await openSession(token.value.trim());
    } catch (error) {
      tokenError.textContent = error.status === 401 ? WRONG_TOKEN : error.message;
      token.select();
      return;
    }
    token.value = "";
    this.meet();
  }

  #set(state, words) {
    this.#parts.state.dataset.state = state;
    this.#parts.state.querySelector("span").textContent = words;
  }

  #show(info) {
    const { facts, limits, cameraTab, beams, maxNewTokens } = this.#parts;
    const known = [info.model, info.precision, info.device].filter(Boolean);
    facts.replaceChildren(
      ...known.map((fact) => {
        const chip = document.createElement("span");
        chip.textContent = fact;
        return chip;
      }),
    );
    limits.textContent = `JPEG, PNG, WebP and more, up to ${bytes(info.max_upload)}`;
    cameraTab.hidden = !info.camera;
    beams.placeholder = info.defaults?.num_beams ?? "";
    maxNewTokens.placeholder = info.defaults?.max_new_tokens ?? "";
  }
}
