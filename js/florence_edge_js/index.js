/** Florence-2 in JavaScript: the bundles of florence-edge in browsers, node and Electron. */

export { clearCache as clear_cache } from "./cache.js";
export {
  annotatedPicture,
  boxOf,
  drawRegions,
  regionAt,
  styleForPicture,
  styleForScreen,
} from "./drawing.js";
export { LabelColours } from "./colours.js";
export {
  BackendError,
  BundleError,
  BundleNotFoundError,
  FlorenceEdgeError,
  ImageError,
  RequestError,
} from "./errors.js";
export { EncodedImage, Florence2 } from "./model.js";
export { parse } from "./parse.js";
export { Region, RelativeBox } from "./regions.js";
export { Result } from "./result.js";
export { AnswerKind, TASKS, Task } from "./tasks.js";
