/** One call at a time: the sessions of a model, and the memory between them, are shared. */

import { BackendError, MODEL_CLOSED } from "./errors.js";

export class EngineLock {
  #last = Promise.resolve();
  #closed = false;

  /** Run `work` after all that came before; whatever that came to. */
  held(work) {
    this.checkOpen();
    return this.#queued(work);
  }

  /** Run `free` after all that was asked, once; what is asked then is a BackendError. */
  close(free) {
    if (this.#closed) return this.#last;
    this.#closed = true;
    return this.#queued(free);
  }

  checkOpen() {
    if (this.#closed) throw new BackendError(MODEL_CLOSED);
  }

  #queued(work) {
    const done = this.#last.then(work);
    this.#last = done.then(
      () => {},
      () => {},
    );
    return done;
  }
}
