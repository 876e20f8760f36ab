/** The page: a picture or a camera on one side, a question and its answer on the other. */

import {
  LabelColours,
  TASKS,
  drawRegions,
  styleForScreen,
} from "./node_modules/florence-edge/florence_edge_js/index.js";

const OWN_WORDS = "OWN_WORDS";
const PACE_OVER = 3000; // milliseconds

const $ = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
const colours = new LabelColours();

let size = null; // [width, height] of the picture
let fresh = null; // a picture that the worker has not seen: a Blob
let selected = null; // [left, top, right, bottom] in its pixels
let answer = null;
let camera = null; // MediaStream
let asked = 0; // number of the last question
let busy = false;
let ready = false;
let pace = [];

// The model

worker.addEventListener("message", ({ data }) => {
  if (data.id !== undefined && data.id !== asked) return; // an answer to an earlier question
  TOLD[data.type](data);
});

const TOLD = {
  progress({ loaded, total }) {
    $("progress").hidden = false;
    $("progress").max = total;
    $("progress").value = loaded;
    const megabytes = (bytes) => (bytes / 1e6).toFixed(0);
    $("state").textContent = `Loading ${megabytes(loaded)} of ${megabytes(total)} MB`;
  },
  ready({ name, precision, threads }) {
    ready = true;
    $("progress").hidden = true;
    const isolated = threads > 1 ? `${threads} threads` : "1 thread";
    $("state").textContent = `${name}, ${precision}, ${isolated}`;
    update();
    if (size) ask();
  },
  text({ piece }) {
    if (camera) return;
    $("words").hidden = false;
    $("words").textContent += piece;
  },
  answer(data) {
    answer = data;
    done();
    show();
    if (camera) nextFrame();
  },
  stopped: done,
  error({ message }) {
    fail(message);
    done();
  },
};

function done() {
  busy = false;
  update();
}

worker.addEventListener("error", (event) => fail(`The model did not start: ${event.message}`));

// The picture

async function openPicture(blob) {
  stopCamera();
  const element = new Image();
  element.src = URL.createObjectURL(blob);
  try {
    await element.decode();
  } catch {
    fail("The browser cannot decode this picture. Convert it to PNG or JPEG.");
    return;
  } finally {
    URL.revokeObjectURL(element.src);
  }
  fresh = blob;
  paint(element, element.naturalWidth, element.naturalHeight);
  ask();
}

function paint(source, width, height) {
  if (size?.[0] !== width || size?.[1] !== height) selected = null;
  size = [width, height];
  const canvas = $("picture");
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  $("picture").getContext("2d").drawImage(source, 0, 0);
  $("frame").style.setProperty("--ratio", width / height);
  $("frame").hidden = false;
  $("empty").hidden = true;
  $("stage").classList.add("filled");
  if (!camera) clearAnswer();
}

function reset() {
  stopCamera();
  size = null;
  selected = null;
  fresh = null;
  clearAnswer();
  $("frame").hidden = true;
  $("empty").hidden = false;
  $("stage").classList.remove("filled");
  update();
}

// The camera: a frame is asked about when the answer to the one before is there.

async function startCamera() {
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    fail(`There is no camera: ${error.message}.`);
    return;
  }
  const video = $("video");
  video.srcObject = camera;
  await video.play();
  pace = [];
  nextFrame();
}

function stopCamera() {
  for (const track of camera?.getTracks() ?? []) track.stop();
  camera = null;
  $("video").srcObject = null;
}

async function nextFrame() {
  const frame = await createImageBitmap($("video"));
  if (!camera) return;
  const { width, height } = frame;
  paint(frame, width, height);
  ask(frame);
}

// Question and answer

function question() {
  const name = $("task").value;
  const text = $("text").value.trim();
  const needs = name === OWN_WORDS ? "text" : TASKS[name].needs;
  if (needs === "text" && !text) return null;
  if (needs === "region" && !selected) return null;
  return {
    task: name === OWN_WORDS ? null : name,
    text: needs === "text" ? text : null,
    region: needs === "region" ? selected : null,
    beams: Number($("beams").value),
  };
}

function ask(frame = null) {
  const complete = question();
  if (!ready || !size || !complete) {
    frame?.close();
    if (camera && ready) setTimeout(nextFrame, 100); // the picture goes on without a question
    update();
    return;
  }
  asked += 1;
  busy = true;
  $("error").hidden = true;
  if (!camera) clearAnswer();
  worker.postMessage({ type: "stop" });
  const picture = frame ?? fresh;
  worker.postMessage({ type: "ask", id: asked, picture, ...complete }, frame ? [frame] : []);
  fresh = null;
  update();
}

function clearAnswer() {
  answer = null;
  for (const id of ["words", "seconds"]) $(id).textContent = "";
  $("words").hidden = true;
  $("regions").replaceChildren();
  draw();
}

function show() {
  const { regions, status, text, raw_text, score, seconds, is_text } = answer;
  $("words").hidden = !is_text && status !== "unparsed";
  $("words").textContent = status === "unparsed" ? raw_text : `${text} (${score.toFixed(2)})`;
  const shades = colours.of(regions);
  $("regions").replaceChildren(...regions.map((region, at) => row(region, shades[at], at)));
  const whole = Object.values(seconds).reduce((sum, each) => sum + each, 0);
  const cut = status === "truncated" ? ", cut off" : "";
  $("seconds").textContent = `${(whole * 1000).toFixed(0)} ms${cut}${paceNow()}`;
  draw();
}

function paceNow() {
  if (!camera) return "";
  const now = performance.now();
  pace = [...pace.filter((then) => now - then < PACE_OVER), now];
  if (pace.length < 2) return "";
  const rate = ((pace.length - 1) * 1000) / (now - pace[0]);
  document.body.dataset.pace = rate.toFixed(2);
  return `, ${rate.toFixed(1)} pictures/s`;
}

function row(region, colour, at) {
  const item = document.createElement("li");
  const [swatch, label, score] = ["i", "span", "b"].map((tag) => document.createElement(tag));
  swatch.style.background = colour;
  label.textContent = region.label || `region ${at + 1}`;
  score.textContent = region.score.toFixed(2);
  item.append(swatch, label, score);
  return item;
}

function draw() {
  const canvas = $("overlay");
  const ratio = devicePixelRatio; // it has the screen's pixels, whatever the picture has
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  if (!size || canvas.width === 0) return;
  const context = canvas.getContext("2d");
  const regions = answer?.regions ?? [];
  drawRegions(context, {
    regions,
    colours: colours.of(regions),
    size,
    style: styleForScreen(ratio, regions.length),
    asked: selected,
  });
}

function update() {
  const name = $("task").value;
  const needs = name === OWN_WORDS ? "text" : TASKS[name].needs;
  $("text-field").hidden = needs !== "text";
  $("hint").hidden = needs !== "region" || selected !== null;
  $("overlay").classList.toggle("selecting", needs === "region");
  $("ask").disabled = !ready || !size || Boolean(camera) || question() === null;
  $("stop").hidden = !busy || Boolean(camera);
  $("another").hidden = !size;
  $("another").textContent = camera ? "Stop the camera" : "Another picture";
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = false;
}

// A rectangle for region tasks

let corner = null;

function pointIn(event) {
  const box = $("overlay").getBoundingClientRect();
  const share = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  return share.map((each, at) => Math.round(Math.min(Math.max(each, 0), 1) * size[at]));
}

$("overlay").addEventListener("pointerdown", (event) => {
  if (!event.target.classList.contains("selecting")) return;
  corner = pointIn(event);
  event.target.setPointerCapture(event.pointerId);
});
$("overlay").addEventListener("pointermove", (event) => {
  if (!corner) return;
  const [x, y] = pointIn(event);
  const box = [
    Math.min(x, corner[0]),
    Math.min(y, corner[1]),
    Math.max(x, corner[0]),
    Math.max(y, corner[1]),
  ];
  selected = box[2] > box[0] && box[3] > box[1] ? box : null;
  draw();
});
$("overlay").addEventListener("pointerup", () => {
  if (corner && selected && !camera) ask();
  corner = null;
  update();
});

// What a visitor does

$("task").append(
  ...[...Object.keys(TASKS), OWN_WORDS].map((name) => {
    const words = name.toLowerCase().replaceAll("_", " ");
    return new Option(words.length < 4 ? name : words, name);
  }),
);
$("task").value = "OD";
$("question").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("task").addEventListener("change", () => {
  update();
  draw();
  if (!camera) ask();
});
$("text").addEventListener("input", update);
$("stop").addEventListener("click", () => worker.postMessage({ type: "stop" }));
$("another").addEventListener("click", reset);
$("camera").addEventListener("click", startCamera);
$("file").addEventListener("change", () => {
  if ($("file").files[0]) openPicture($("file").files[0]);
  $("file").value = "";
});
for (const type of ["dragover", "dragleave", "drop"]) {
  $("stage").addEventListener(type, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", type === "dragover");
    if (type === "drop" && event.dataTransfer.files[0]) openPicture(event.dataTransfer.files[0]);
  });
}
new ResizeObserver(draw).observe($("overlay"));
window.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files[0]) openPicture(clipboardData.files[0]);
});

/**
 * Start the service worker, which keeps the page's files, and isolates the page where its server
 * does not. It sees them only when the page is loaded once more; true if that is to be done.
 */
async function wantsReload() {
  if (!("serviceWorker" in navigator)) return false;
  try {
    const sees = navigator.serviceWorker.controller !== null; // asked before it takes the page over
    await navigator.serviceWorker.register("service_worker.js");
    await navigator.serviceWorker.ready;
    if (sees) {
      sessionStorage.removeItem("reloaded");
      return false;
    }
    if (sessionStorage.getItem("reloaded")) return false; // in vain: not again and again
    sessionStorage.setItem("reloaded", "yes");
    return true;
  } catch {
    return false; // storage is blocked: the page works, but not offline
  }
}

async function begin() {
  if (await wantsReload()) {
    location.reload();
    return;
  }
  const bundle = new URLSearchParams(location.search).get("bundle") ?? "bundle/";
  worker.postMessage({ type: "load", bundle: new URL(bundle, location.href).href });
}

update();
begin();
