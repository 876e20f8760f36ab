/// <reference lib="dom" />
/** Florence-2 in JavaScript; names of methods, arguments and fields are those of the Python runtime. */

/** Width and height in pixels. */
export type Size = [number, number];
/** Left, top, right, bottom in pixels. */
export type Box = [number, number, number, number];
/** "native": the whole numbers of transformers; "microsoft": the original code's fractions. */
export type Convention = "native" | "microsoft";
/** "cpu": WebAssembly in a browser, the processor in node. */
export type Device = "cpu" | "webgpu";
export type Shape = "box" | "quad" | "polygon";
/** How an answer ended; "unparsed": words, but no region where regions were asked for. */
export type Status = "ok" | "empty" | "unparsed" | "truncated";
/** Why an answer was cut off: `max_new_tokens`, `max_time`, or `cancel` was set. */
export type CutOff = "length" | "time" | "cancel";
export type TaskName =
  | "CAPTION"
  | "DETAILED_CAPTION"
  | "MORE_DETAILED_CAPTION"
  | "OCR"
  | "OCR_WITH_REGION"
  | "OD"
  | "DENSE_REGION_CAPTION"
  | "REGION_PROPOSAL"
  | "CAPTION_TO_PHRASE_GROUNDING"
  | "OPEN_VOCABULARY_DETECTION"
  | "REFERRING_EXPRESSION_SEGMENTATION"
  | "REGION_TO_SEGMENTATION"
  | "REGION_TO_CATEGORY"
  | "REGION_TO_DESCRIPTION"
  | "REGION_TO_OCR";
/** Also written `<OD>` or `od`. */
export type TaskLike = TaskName | Task | (string & {});

/** Raw pixels, 3 (RGB) or 4 (RGBA, alpha dropped) bytes each; an ImageData is one. */
export interface RawImage {
  width: number;
  height: number;
  data: Uint8Array | Uint8ClampedArray;
}
/** In a browser also what `createImageBitmap` takes: Blob, <img>, <canvas>, <video>, ... */
export type ImageLike = RawImage | ImageBitmapSource;

/** Hugging Face's names; what is left out is the checkpoint's. */
export interface GenerationOptions {
  /** 1 (greedy) to 8. */
  num_beams?: number;
  max_new_tokens?: number;
  min_new_tokens?: number;
  no_repeat_ngram_size?: number;
  /** 0.01 to 100; 1 is off. */
  repetition_penalty?: number;
  /** -1 to 10, for beams. */
  length_penalty?: number;
  early_stopping?: boolean | "never";
  /** -1 is off. */
  forced_bos_token_id?: number;
  /** -1 is off. */
  forced_eos_token_id?: number;
  suppress_tokens?: number[];
  begin_suppress_tokens?: number[];
  bad_words_ids?: number[][];
  eos_token_id?: number | number[];
  /** Seconds that one answer may take; it is `truncated` then. */
  max_time?: number;
}

/** How an answer is made. */
export interface How {
  options?: GenerationOptions;
  /** Ends it: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
  /** Ends the answer as it is by then, with the status `truncated`. */
  cancel?: AbortSignal;
  /** Called with each new piece of one answer's text; none is taken back. */
  on_text?: (piece: string) => void;
}

export interface Question extends How {
  text?: string | null;
  region?: Box | RelativeBox | null;
}

/** A text and a region for all pictures, or a list with one for each. */
export interface QuestionEach extends How {
  text?: string | null | (string | null)[];
  region?: Box | RelativeBox | null | (Box | RelativeBox | null)[];
}

/** Bytes of all files together; `file` is the one that arrives. */
export interface Progress {
  file: string;
  loaded: number;
  total: number;
}

export interface LoadOptions {
  /** The package onnxruntime-web or onnxruntime-node; left out, the one that is installed. */
  ort?: unknown;
  device?: Device;
  convention?: Convention;
  /** Of one operator; in a page more than 1 needs cross-origin isolation. */
  threads?: number;
  /** Larger pictures are refused. */
  max_pixels?: number;
  /** Compare every file with its hash in the manifest (true). */
  verify?: boolean;
  /** Let the browser keep the files, by their hashes (true). */
  cache?: boolean;
  /** Ends the download. */
  signal?: AbortSignal;
  on_progress?: (progress: Progress) => void;
}

export class Florence2 {
  /** Open the bundle at an address, or in node in a folder. */
  static load(source: string | URL, options?: LoadOptions): Promise<Florence2>;
  readonly bundle: Bundle;
  readonly convention: Convention;

  /** Answer one task or several about one picture or several; lists give lists. */
  run(image: ImageLike, task: TaskLike, question?: Question): Promise<Result>;
  run(image: ImageLike, task: TaskLike[], question?: Question): Promise<Result[]>;
  run(image: ImageLike[], task: TaskLike, question?: QuestionEach): Promise<Result[]>;
  run(image: ImageLike[], task: TaskLike[], question?: QuestionEach): Promise<Result[][]>;

  /** Answer a prompt in the user's own words. */
  ask(image: ImageLike, prompt: string, how?: How): Promise<Result>;

  /** Run the vision encoder once; the view answers any number of tasks about the picture. */
  encode(image: ImageLike, how?: Pick<How, "options" | "signal">): Promise<EncodedImage>;
  encode(image: ImageLike[], how?: Pick<How, "options" | "signal">): Promise<EncodedImage[]>;

  /** Answer one prompt about each view, as one batch. */
  answer(views: EncodedImage[], prompts: Prompt[], how?: How): Promise<Result[]>;

  /** Options with all filled in that they leave to the checkpoint. */
  generation_config(options?: GenerationOptions): Readonly<Record<string, unknown>>;

  /** Free the engine, after what was asked already. */
  close(): Promise<void>;
}

/** A picture with its image features. */
export class EncodedImage {
  private constructor();
  readonly model: Florence2;
  readonly size: Size;
  readonly options?: GenerationOptions;
  readonly seconds: Readonly<Record<string, number>>;

  run(task: TaskLike, question?: Question): Promise<Result>;
  run(task: TaskLike[], question?: Question): Promise<Result[]>;
  ask(prompt: string, how?: How): Promise<Result>;
  /** 1 in a sentence, 2 in detail, 3 in a paragraph. */
  caption(detail?: 1 | 2 | 3, how?: How): Promise<Result>;
  /** All that the model knows, or what `phrases` name. */
  detect(phrases?: string | string[] | null, how?: How): Promise<Result>;
  ground(caption: string, how?: How): Promise<Result>;
  segment(what: string | Box | RelativeBox, how?: How): Promise<Result>;
  segment(what: null | undefined, how: How & { region: Box | RelativeBox }): Promise<Result>;
  ocr(regions?: boolean, how?: How): Promise<Result>;
  read(region: Box | RelativeBox, how?: How): Promise<Result>;
  describe(region: Box | RelativeBox, how?: How): Promise<Result>;
  categorize(region: Box | RelativeBox, how?: How): Promise<Result>;
  propose(how?: How): Promise<Result>;
  dense_captions(how?: How): Promise<Result>;
}

/** One answer of the model to one task on one picture. */
export class Result {
  private constructor();
  readonly task: Task;
  readonly text_input: string | null;
  /** The answer as the model wrote it, with its special tokens. */
  readonly raw_text: string;
  readonly token_ids: readonly number[];
  readonly token_log_probs: readonly number[];
  readonly status: Status;
  /** Why a `truncated` answer stopped; null of any other. */
  readonly cut_off: CutOff | null;
  readonly image_size: Size;
  readonly convention: Convention;
  /** The answer as words; of structured answers too, locations included. */
  readonly text: string;
  readonly regions: readonly Region[];
  /** exp of the mean log-probability of all that was said, 0 to 1. */
  readonly score: number;
  /** How long each stage took: image, vision, prefill, decode, parse. */
  readonly seconds: Readonly<Record<string, number>>;
  readonly scores: number[];
  /** Boxes as fractions of the picture. */
  readonly normalized_boxes: Box[];
  /** The dictionary that Hugging Face's processor gives. */
  to_hf(): Record<string, unknown>;
  to_json(): Record<string, unknown>;
  /** Without the regions that score below `minScore` or have another label; the best of these. */
  filter(
    minScore?: number,
    kept?: { classes?: readonly string[] | null; max_regions?: number | null },
  ): Result;
  /** Without regions that have no area, and without location tokens in labels. */
  clean(): Result;
}

/** One thing that an answer points at. */
export class Region {
  private constructor();
  readonly label: string;
  readonly shape: Shape;
  /** Flat lists of pixels x, y, x, y, ... */
  readonly rings: readonly number[][];
  /** exp of the mean log-probability of the location tokens. */
  readonly score: number;
  readonly label_score: number | null;
  /** The upright box around all rings. */
  readonly box: Box;
}

/** A region in fractions of the picture's sides, 0 to 1. */
export class RelativeBox implements Iterable<number> {
  constructor(left: number, top: number, right: number, bottom: number);
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
  [Symbol.iterator](): Iterator<number>;
}

/** What `manifest.json` says of an exported model. */
export interface Bundle {
  readonly name: string;
  readonly model: string;
  readonly precision: "fp32" | "fp16" | "int8" | "int4";
  readonly target: string;
  readonly floats: "float32" | "float16";
  readonly size: Readonly<Record<string, number>>;
  readonly generation: Readonly<Record<string, unknown>>;
  readonly files: Readonly<Record<string, { bytes: number; sha256: string }>>;
  /** The checkpoint's own tasks, beside the 15. */
  readonly tasks: readonly Task[];
}

export class Task {
  private constructor();
  readonly token: string;
  readonly name: string;
  readonly template: string;
  readonly answer: string;
  readonly needs: "nothing" | "text" | "region";
}
export const TASKS: Readonly<Record<TaskName, Task>>;
export const AnswerKind: Readonly<Record<string, string>>;

/** What is asked about one picture. */
export interface Prompt {
  task: Task;
  text_input: string | null;
  /** The English words that the text encoder reads. */
  wording: string;
}

/** Read an answer, generated anywhere, as the processors of Florence-2 do. */
export function parse(
  task: TaskLike,
  rawText: string,
  about: { image_size: Size; convention?: Convention },
): Record<string, unknown>;

/** Forget all bundles that this page's origin has kept; true if there were any. */
export function clear_cache(): Promise<boolean>;

// Drawing

export interface DrawnRegion {
  label: string;
  shape: Shape;
  rings: readonly (readonly number[])[];
  score: number;
  track_id?: number | null;
}
/** Sizes in canvas pixels. */
export interface DrawingStyle {
  line: number;
  text: number;
  padding: number;
}
/** Gives labels their colours, and remembers them for as long as it lives. */
export class LabelColours {
  /** One colour (#rrggbb) for each region, in their order. */
  of(regions: readonly { label: string }[]): string[];
}
export function styleForPicture(width: number, height: number, count: number): DrawingStyle;
export function styleForScreen(ratio: number, count: number): DrawingStyle;
/** Draw regions over a picture that fills the canvas. */
export function drawRegions(
  context: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D,
  drawing: {
    regions: readonly DrawnRegion[];
    colours: string[];
    size: Size;
    style: DrawingStyle;
    highlighted?: number;
    asked?: Box | null;
  },
): void;
/** The topmost region at a point of the picture; -1 where there is none. */
export function regionAt(regions: readonly DrawnRegion[], x: number, y: number): number;
export function boxOf(region: { rings: readonly (readonly number[])[] }): Box;
/** The picture with its answer, for a file. */
export function annotatedPicture(
  picture: CanvasImageSource,
  drawing: {
    width: number;
    height: number;
    regions: readonly DrawnRegion[];
    colours: string[];
    size: Size;
    caption: string;
    asked?: Box | null;
  },
): HTMLCanvasElement;

// Errors

export class FlorenceEdgeError extends Error {}
/** A bundle is missing, damaged or of another kind. */
export class BundleError extends FlorenceEdgeError {}
export class BundleNotFoundError extends BundleError {}
/** An engine did not become active, or failed while running. */
export class BackendError extends FlorenceEdgeError {}
/** A wrong argument. */
export class RequestError extends FlorenceEdgeError {}
/** A picture that cannot be read or has no pixels. */
export class ImageError extends RequestError {}
