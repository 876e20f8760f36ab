/** The two cameras: the box's, whose frames the server sends, and that of this device. */

import { AnswerSocket } from "./answer_socket.js";

const LARGEST_SIDE = 1280; // of a frame that is sent: the model looks at 768 pixels
const QUALITY = 0.85;
const PREVIEW_EVERY = 100; // milliseconds between frames that are shown without their answer
const SMOOTH_EVERY = 33;
const AFTER_ERROR = 1000;

/**
 * The camera of the machine that runs the server.
 *
 * @param told {onFrame(source, width, height, reply), onWaiting(words), onError(error),
 *   onRefused(words)}
 */
export class BoxCamera {
  #socket;
  #picture = null;
  #showing = false;

  constructor(told) {
    this.#socket = new AnswerSocket("v1/camera", {
      ...told,
      onPicture: (blob) => {
        this.#picture = blob;
      },
      onAnswers: (reply, late) => {
        if (!late) this.#show(reply, told);
      },
    });
  }

  start(question) {
    if (question) this.#socket.ask(question);
    this.#socket.open();
  }

  ask(question) {
    this.#socket.ask(question);
  }

  stop() {
    this.#socket.close();
  }

  async #show(reply, told) {
    const blob = this.#picture;
    if (blob === null || this.#showing) return; // a slow phone leaves frames out
    this.#showing = true;
    try {
      const bitmap = await createImageBitmap(blob);
      told.onFrame(bitmap, bitmap.width, bitmap.height, reply);
      bitmap.close();
    } finally {
      this.#showing = false;
    }
  }
}

/** Whether the browser gives this page a camera at all: only over https, or on localhost. */
export function hasCameraAccess() {
  return window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
}

/**
 * The camera of the device that shows the page: frames go out one at a time, each after the answer
 * to the one before, and come back with their answers.
 *
 * @param video a <video> element
 * @param told as of BoxCamera, and onPreview(source, width, height) for frames that wait for no
 *   answer; the source of onFrame is null where the video runs on meanwhile (`smooth`)
 */
export class OwnCamera {
  #video;
  #told;
  #socket;
  #stream = null;
  #question = null;
  #sent = 0;
  #waitingFor = null; // the frame that is being answered: {number, canvas}
  #answered = false;
  #preview = 0;
  #retry = 0;
  #smooth = false;

  constructor(video, told) {
    this.#video = video;
    this.#told = told;
    this.#socket = new AnswerSocket("v1/live", {
      ...told,
      onOpen: () => {
        this.#sent = 0;
        this.#waitingFor = null;
        this.#sendFrame();
      },
      onAnswers: (reply, late) => this.#answer(reply, late),
      onError: (error) => {
        told.onError(error);
        this.#waitingFor = null;
        this.#retry = setTimeout(() => this.#sendFrame(), AFTER_ERROR);
      },
    });
  }

  /** Ask for the camera, and begin. Throws what getUserMedia throws. */
  async start(question) {
    this.#stream = await navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } },
    });
    this.#video.srcObject = this.#stream;
    await this.#video.play();
    this.#answered = false;
    this.#startPreview();
    this.ask(question);
    this.#socket.open();
  }

  ask(question) {
    const first = this.#question === null;
    this.#question = question;
    if (question === null) return;
    this.#socket.ask(question);
    if (first) this.#sendFrame();
  }

  stop() {
    clearInterval(this.#preview);
    clearTimeout(this.#retry);
    this.#socket.close();
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
    this.#question = null;
    this.#waitingFor = null;
  }

  /** Whether the video runs on under the last answer; else each frame is shown with its own. */
  set smooth(smooth) {
    this.#smooth = smooth;
    if (this.#stream) this.#startPreview();
  }

  #startPreview() {
    clearInterval(this.#preview);
    const every = this.#smooth ? SMOOTH_EVERY : PREVIEW_EVERY;
    this.#preview = setInterval(() => this.#showPreview(), every);
  }

  #showPreview() {
    const size = this.#frameSize();
    const answered = this.#answered && this.#question !== null;
    if (size[0] === 0 || (answered && !this.#smooth)) return;
    this.#told.onPreview(this.#video, ...size);
  }

  /** Width and height of the frames that are sent, which answers are about. */
  #frameSize() {
    const { videoWidth, videoHeight } = this.#video;
    const shrink = Math.min(1, LARGEST_SIDE / Math.max(videoWidth, videoHeight, 1));
    return [Math.round(videoWidth * shrink), Math.round(videoHeight * shrink)];
  }

  async #sendFrame() {
    const [width, height] = this.#frameSize();
    if (!this.#socket.isOpen || this.#waitingFor || this.#question === null || width === 0) return;
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").drawImage(this.#video, 0, 0, width, height);
    const frame = { number: this.#sent, canvas };
    this.#waitingFor = frame;
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
    if (this.#waitingFor !== frame) return; // stopped, or opened anew, in the meantime
    this.#sent += 1;
    this.#socket.send(blob);
  }

  #answer(reply, late) {
    const frame = this.#waitingFor;
    if (frame === null || reply.frame !== frame.number) return;
    this.#waitingFor = null;
    if (!late) {
      this.#answered = true;
      const { canvas } = frame;
      const shown = this.#smooth ? null : canvas;
      this.#told.onFrame(shown, canvas.width, canvas.height, reply);
    }
    this.#sendFrame();
  }
}

const CAMERA_REFUSALS = {
  NotAllowedError:
    "The browser was not allowed to use the camera. Allow it for this page (the sign beside the address), then press Try again.",
  NotFoundError: "This device has no camera. Choose a picture instead, or use the box’s camera.",
  NotReadableError:
    "Another program holds this device’s camera. Close it, then press Try again.",
};

/** What getUserMedia threw, in a sentence or two. */
export function cameraRefusal(error) {
  return CAMERA_REFUSALS[error.name] ?? `The camera did not start: ${error.message}`;
}
