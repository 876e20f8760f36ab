/**
 * The errors of the package, named as in Python.
 *
 *     FlorenceEdgeError
 *     ├── BundleError              a bundle is missing, damaged or of another kind
 *     │   └── BundleNotFoundError
 *     ├── BackendError             an engine did not become active, or failed while running
 *     └── RequestError             a wrong argument
 *         └── ImageError               a picture that cannot be read or has no pixels
 *
 * A message says what happened, what was expected, and what to do; `cause` has another's error.
 */

export class FlorenceEdgeError extends Error {
  get name() {
    return this.constructor.name;
  }
}

export class BundleError extends FlorenceEdgeError {}

export class BundleNotFoundError extends BundleError {}

export class BackendError extends FlorenceEdgeError {}

export class RequestError extends FlorenceEdgeError {}

export class ImageError extends RequestError {}

/** The `BackendError` of every use of a model after its `close`. */
export const MODEL_CLOSED = "This model was closed. Load it again.";
