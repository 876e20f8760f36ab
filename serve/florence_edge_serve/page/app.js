/** The page: puts together what the other modules do. */

import { AnswerView } from "./answer_view.js";
import { BoxCamera, OwnCamera, cameraRefusal, hasCameraAccess } from "./cameras.js";
import { ServerError, ask, fetchFile } from "./client.js";
import { stemFor } from "./downloads.js";
import { bytes, decode, listenForPictures } from "./pictures.js";
import { ServerState } from "./server_state.js";
import { ShownAnswer } from "./shown_answer.js";
import { Stage } from "./stage.js";
import { StageMessage } from "./stage_message.js";
import { TaskPicker } from "./task_picker.js";
import { OWN_WORDS, ownTask, questionOf } from "./tasks.js";

const SHOWN_COPIED = 1600; // milliseconds
const PACE_OVER = 3000; // milliseconds

const $ = (id) => document.getElementById(id);

let info = null;
let source = "picture"; // or "camera" (the box's), "live" (this device's)
let picture = null; // {file, element} of the source "picture"
let running = null; // AbortController of the question that is being answered
let paused = false;
let barred = false; // the server is away, or wants its token: what the error says
let pace = []; // when the last answers of a camera came, in milliseconds

const stage = new Stage(
  { stage: $("stage"), frame: $("frame"), picture: $("picture"), overlay: $("overlay") },
  {
    onSelect(box, finished) {
      picker.showBox(box);
      if (finished && box) askNow();
    },
    onPoint: (at) => answer.point(answer.numberAt(at)),
    onPick: (at) => answer.pin(answer.numberAt(at), true),
  },
);

const picker = new TaskPicker(
  {
    tasks: $("tasks"), about: $("about"), textField: $("text-field"), textLabel: $("text-label"),
    text: $("text"), regionField: $("region-field"),
    edges: [...document.querySelectorAll("[data-edge]")],
  },
  {
    onTask: taskChosen,
    onEdges(box) {
      const kept = stage.select(box);
      if (kept) picker.showBox(kept);
    },
  },
);

const view = new AnswerView(
  {
    nothing: $("nothing"), body: $("answer-body"), note: $("status-note"), words: $("words"),
    thresholdField: $("threshold-field"), threshold: $("threshold"),
    thresholdValue: $("threshold-value"), regions: $("regions"), hiddenCount: $("hidden-count"),
    stages: $("stages"), latency: $("latency"),
  },
  {
    onPoint: (number) => answer.point(number),
    onPick: (number) => answer.pin(number, false),
    onThreshold: () => answer.render(),
  },
);

const answer = new ShownAnswer(stage, view, { subtitle: $("subtitle"), announce: $("announce") });

const message = new StageMessage($("stage-message"));

const toldByCameras = {
  onFrame: showFrame,
  onPreview(video, width, height) {
    message.hide();
    stage.show(video, width, height);
    answer.draw();
  },
  onWaiting(words) {
    message.wait(words);
    $("pace").hidden = true;
  },
  onRefused(words) {
    message.refuse("The server refused", [words]);
    server.meet(); // it may want a token again
  },
  onError: showError,
};
const boxCamera = new BoxCamera(toldByCameras);
const ownCamera = new OwnCamera($("video"), toldByCameras);

// The server

const server = new ServerState(
  {
    state: $("server-state"), facts: $("facts"), limits: $("limits"),
    cameraTab: document.querySelector("[data-source=camera]"), beams: $("beams"),
    maxNewTokens: $("max-new-tokens"), tokenCard: $("token-card"), tokenForm: $("token-form"),
    token: $("token"), tokenError: $("token-error"),
  },
  {
    onReady: begin,
    onError(error) {
      barred = true;
      showError(error);
    },
  },
);

/** Begin with what the address says; without it with the box's camera, if there is one. */
function begin(found) {
  const first = info === null;
  info = found;
  if (first || barred) hideError();
  barred = false;
  if (!first) return; // the token was entered again: the picture stays
  picker.add("Tuned", info.own_tasks.map(ownTask));
  const { task, source: wanted } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  choose(task ?? info.camera?.task ?? picker.name);
  const usual = info.camera ? "camera" : "picture";
  setSource(wanted === "picture" || wanted === "live" ? wanted : usual);
}

function choose(task) {
  picker.choose(task);
  stage.setSelecting(picker.takes === "region");
}

// Where the picture comes from

async function setSource(wanted) {
  source = wanted;
  for (const tab of document.querySelectorAll("[data-source]")) {
    tab.setAttribute("aria-pressed", String(tab.dataset.source === source));
  }
  remember();
  stopCameras();
  clearAnswer();
  paused = false;
  hideError();
  stage.clear();
  $("empty").hidden = source !== "picture" || picture !== null;
  $("another").hidden = source !== "picture" || picture === null;
  $("pause").hidden = source === "picture";
  $("smooth-field").hidden = source !== "live";
  $("ask-row").hidden = source !== "picture";
  if (source === "picture") showPicture();
  else await startCamera();
}

async function startCamera() {
  pace = [];
  $("pause").textContent = "Pause";
  if (source === "camera") {
    message.wait("Waiting for the box’s camera");
    boxCamera.start(question());
    return;
  }
  if (!hasCameraAccess()) {
    $("pause").hidden = true;
    message.insecure(location, info?.camera ? () => setSource("camera") : null);
    return;
  }
  message.wait("Waiting for this device’s camera");
  try {
    await ownCamera.start(question());
  } catch (error) {
    ownCamera.stop();
    $("pause").hidden = true;
    message.refuse("No camera", [cameraRefusal(error)], ["Try again", () => setSource("live")]);
  }
}

function stopCameras() {
  boxCamera.stop();
  ownCamera.stop();
  message.hide();
  $("pace").hidden = true;
  $("subtitle").hidden = true;
}

function pauseOrGoOn() {
  paused = !paused;
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) {
    startCamera();
    return;
  }
  boxCamera.stop();
  ownCamera.stop();
  message.hide();
  $("pace").textContent = "paused";
}

function showFrame(frame, width, height, reply) {
  if (paused) return;
  message.hide();
  if (frame) stage.show(frame, width, height);
  if (answersTask(reply)) answer.set(reply, reply.stats?.latency ?? reply.seconds.total, true);
  else answer.clear();
  hideError();
  const now = performance.now();
  pace = [...pace.filter((then) => now - then < PACE_OVER), now];
  const rate = pace.length > 1 ? ((pace.length - 1) * 1000) / (now - pace[0]) : 0;
  $("pace").hidden = false;
  $("pace").textContent = rate > 0 ? `${rate.toFixed(1)} answers/s` : "live";
}

/** Whether a frame's answer is to the task that is chosen: while a rectangle is drawn it is not. */
function answersTask(reply) {
  const chosen = picker.name === OWN_WORDS || reply.answers[0].task === `<${picker.name}>`;
  return chosen && question() !== null;
}

async function openPicture(file) {
  if (source !== "picture") await setSource("picture");
  if (info?.max_upload && file.size > info.max_upload) {
    showError(
      new Error(
        `${file.name || "The picture"} has ${bytes(file.size)}, and this server takes up to ` +
          `${bytes(info.max_upload)}. Make it smaller, or start florence-serve with --max-upload.`,
      ),
    );
    return;
  }
  try {
    picture = { file, element: await decode(file) };
  } catch (error) {
    showError(error);
    return;
  }
  hideError();
  showPicture();
  askNow();
}

function showPicture() {
  if (picture === null) return;
  $("empty").hidden = true;
  $("another").hidden = false;
  clearAnswer();
  const { naturalWidth, naturalHeight } = picture.element;
  stage.show(picture.element, naturalWidth, naturalHeight);
  picker.showBox(stage.selected);
}

async function openExample() {
  try {
    openPicture(await fetchFile("page/example.jpg"));
  } catch (error) {
    showError(error);
  }
}

// Questions and answers

function question() {
  const asked = questionOf(picker.name, picker.text, stage.selected);
  if (asked === null) return null;
  const options = Object.fromEntries(
    [["num_beams", $("beams")], ["max_new_tokens", $("max-new-tokens")]]
      .filter(([, field]) => field.value !== "")
      .map(([name, field]) => [name, Number(field.value)]),
  );
  return source === "picture" ? { asked, options } : { ...asked, options };
}

function taskChosen() {
  stage.setSelecting(picker.takes === "region");
  remember();
  hideError();
  if (question() === null && source === "picture") clearAnswer();
  askNow();
}

/** An answer to another question would be taken for one to this. */
function clearAnswer() {
  running?.abort();
  answer.clear();
}

/** Ask if nothing is missing: what is missing is said where it is wanted, and only on request. */
function askNow() {
  const complete = question();
  if (source !== "picture") {
    if (complete && !paused) (source === "camera" ? boxCamera : ownCamera).ask(complete);
    return;
  }
  if (complete && picture) run(complete);
}

function submit(event) {
  event.preventDefault();
  const complete = question();
  if (source === "picture" && picture === null) {
    showError(new Error("There is no picture yet. Drop one on the page, paste it, or choose a file."));
  } else if (complete === null && picker.takes === "text") {
    showError(new Error("This task needs a text. Type what to look for."));
    picker.focusText();
  } else if (complete === null) {
    showError(new Error("This task needs a rectangle. Draw it on the picture, or type its edges."));
  } else {
    askNow();
  }
}

async function run({ asked, options }) {
  running?.abort();
  const control = new AbortController();
  running = control;
  hideError();
  setBusy(true);
  const begun = performance.now();
  try {
    const onText = (text) => {
      if (running === control) view.showWriting(text);
    };
    const reply = await ask(picture.file, asked, { options, signal: control.signal, onText });
    if (running === control) {
      answer.set(reply, (performance.now() - begun) / 1000, false);
      answer.announce();
    }
  } catch (error) {
    if (running !== control) return;
    if (error.name !== "AbortError") showError(error);
    if (error instanceof ServerError && error.isAway) server.meet();
    if (answer.isEmpty) view.clear();
    else answer.render();
  } finally {
    if (running === control) {
      running = null;
      setBusy(false);
    }
  }
}

function setBusy(busy) {
  $("busy").hidden = !busy;
  $("stop").hidden = !busy;
  $("stage").setAttribute("aria-busy", String(busy));
}

function stop() {
  running?.abort();
}

// Files

function fileStem() {
  return stemFor(source === "picture" ? picture?.file.name : source, picker.name);
}

async function copy() {
  await answer.copy();
  $("copy").textContent = "Copied";
  setTimeout(() => {
    $("copy").textContent = "Copy";
  }, SHOWN_COPIED);
}

// Errors, and what the address remembers

function showError(error) {
  if (error instanceof ServerError && error.status === 401) {
    barred = true;
    server.wantToken();
  }
  const later = error.retryAfter > 0 ? ` Try again in ${error.retryAfter} s.` : "";
  const words = `${error.message}${later}`;
  if ($("error").textContent !== words) $("error").textContent = words; // is read out once
  $("error").hidden = false;
}

function hideError() {
  $("error").hidden = true;
  $("error").textContent = "";
}

/** Task and source stand in the address, so that it can be kept as a bookmark. */
function remember() {
  history.replaceState(null, "", `#source=${source}&task=${picker.name}`);
}

listenForPictures({ stage: $("stage"), file: $("file"), choose: $("choose") }, openPicture, (words) =>
  showError(new Error(words)),
);
$("another").addEventListener("click", () => $("file").click());
$("example").addEventListener("click", openExample);
$("question").addEventListener("submit", submit);
$("stop").addEventListener("click", stop);
$("pause").addEventListener("click", pauseOrGoOn);
$("smooth").addEventListener("change", () => {
  ownCamera.smooth = $("smooth").checked;
});
$("save-json").addEventListener("click", () => answer.saveJson(fileStem()));
$("save-picture").addEventListener("click", () =>
  answer.savePicture(fileStem(), source === "picture" ? picture.element : null),
);
$("copy").addEventListener("click", copy);
for (const tab of document.querySelectorAll("[data-source]")) {
  tab.addEventListener("click", () => setSource(tab.dataset.source));
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
window.addEventListener("pagehide", stopCameras);
choose("OD");
server.meet();
