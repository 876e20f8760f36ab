"use strict";
// Draws the page from the JSON in it. Counts follow the least score by histograms of 50 bins.
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#b8a900",
  "#882255", "#44aa99", "#999933"];
const WHY = {random: "random", unsure: "least sure", crowded: "most regions", empty: "nothing found"};
const state = {task: 0, score: data.minScore, why: data.samples[0]?.why ?? "random"};

const number = (value) => value.toLocaleString("en-US");
const task = () => data.tasks[state.task];
const sum = (values) => values.reduce((total, value) => total + value, 0);
const above = (bins) => sum(bins.slice(Math.ceil(state.score * data.bins - 1e-9)));

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function colourOf(label) {
  const key = label.trim().toLowerCase();
  const place = task().classes.findIndex((each) => each.label.toLowerCase() === key);
  return COLOURS[(place < 0 ? key.length : place) % COLOURS.length];
}

function showFigures() {
  const regions = sum(data.perPicture.map(([count, pictures]) => count * pictures));
  const read = data.pictures - data.unread;
  const empty = data.perPicture.find(([count]) => count === 0)?.[1] ?? 0;
  const shown = [["pictures", number(data.pictures), ""]];
  if (data.of > data.pictures) shown.push(["of the list", `${(100 * data.pictures / data.of).toFixed(1)} %`, ""]);
  if (data.tasks.some((each) => each.regional)) {
    shown.push(["regions", number(regions), ""]);
    shown.push(["regions a picture", read ? (regions / read).toFixed(1) : "0", ""]);
    shown.push(["pictures without", number(empty), ""]);
  }
  shown.push(["failed", number(data.failed), data.failed ? "bad" : ""]);
  by("figures").replaceChildren(...shown.map(([name, value, kind]) =>
    element("div", {class: `figure ${kind}`}, element("b", {}, value), element("span", {class: "quiet"}, name))));
}

function histogram(bins, height, {axis = false, colour = "var(--bar)"} = {}) {
  const most = Math.max(1, ...bins), width = 300, step = width / bins.length;
  const foot = axis ? 16 : 0;
  const bars = bins.map((count, place) => {
    const tall = count ? Math.max(1, (height * count) / most) : 0;
    const kept = (place + 0.5) / bins.length >= state.score;
    return drawing("rect", {x: place * step, y: height - tall, width: Math.max(0.5, step - 0.8), height: tall,
      rx: 1, fill: kept ? colour : "var(--line)"},
      drawing("title", {}, `${(place / bins.length).toFixed(2)} to ${((place + 1) / bins.length).toFixed(2)}: ${number(count)}`));
  });
  const marks = axis ? [0, 0.25, 0.5, 0.75, 1].map((at) =>
    drawing("text", {x: at * width, y: height + 14, "text-anchor": at === 0 ? "start" : at === 1 ? "end" : "middle"}, String(at))) : [];
  const line = drawing("line", {x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5, stroke: "var(--line)"});
  return drawing("svg", {viewBox: `0 0 ${width} ${height + foot + 1}`, role: "img", "aria-label": "histogram of scores",
    preserveAspectRatio: axis ? "xMidYMid" : "none", ...(axis ? {} : {style: `height:${height}px`})}, line, ...bars, ...marks);
}

function showClasses() {
  const shown = task();
  by("classes-title").textContent = shown.regional ? "Classes" : "Answers in words";
  if (!shown.regional) {
    by("classes").replaceChildren(element("p", {class: "quiet"},
      "Captions and texts have no classes; see the samples below."));
    return;
  }
  const most = Math.max(1, ...shown.classes.map((each) => each.regions));
  const rows = shown.classes.map((each) => {
    const kept = above(each.bins), colour = colourOf(each.label);
    const bar = element("i", {style: `width:${(100 * kept) / most}%;background:${colour}`});
    const dot = element("span", {class: "dot", style: `background:${colour}`});
    const name = each.label || "(no label)";
    return element("div", {class: "row", title: `${name}: ${number(each.regions)} regions on ${number(each.pictures)} pictures`},
      element("div", {class: "label"}, dot, name),
      element("div", {class: "track"}, bar),
      element("div", {class: "count"}, kept === each.regions ? number(kept) : `${number(kept)} / ${number(each.regions)}`),
      histogram(each.bins, 24, {colour}));
  });
  if (shown.moreClasses) rows.push(element("p", {class: "quiet"}, `and ${number(shown.moreClasses)} classes more`));
  if (!rows.length) rows.push(element("p", {class: "quiet"}, "Nothing was found."));
  by("classes").replaceChildren(...rows);
}

function showScores() {
  const shown = task();
  const all = shown.regional
    ? shown.classes.reduce((total, each) => total.map((count, place) => count + each.bins[place]), Array(data.bins).fill(0))
    : shown.bins;
  by("scores").replaceChildren(histogram(all, 90, {axis: true}));
  const total = sum(all);
  by("kept").textContent = shown.regional ? `keeps ${number(above(all))} of ${number(total)} regions` : "";
  by("slider").style.visibility = shown.regional ? "visible" : "hidden";
  by("score-value").textContent = state.score.toFixed(2);
  const ended = Object.entries(shown.statuses).sort((one, other) => other[1] - one[1]);
  by("statuses").replaceChildren(...ended.map(([name, count]) =>
    element("span", {}, element("b", {}, number(count)), ` ${name}`)));
}

function showPerPicture() {
  const most = 12, counts = Array(most + 1).fill(0);
  for (const [count, pictures] of data.perPicture) counts[Math.min(count, most)] += pictures;
  const height = 70, step = 300 / counts.length, tallest = Math.max(1, ...counts);
  const bars = counts.flatMap((pictures, count) => {
    const tall = pictures ? Math.max(1, (height * pictures) / tallest) : 0;
    return [drawing("rect", {x: count * step, y: height - tall, width: step - 2, height: tall, rx: 2, fill: "var(--bar)"},
      drawing("title", {}, `${number(pictures)} pictures`)),
    drawing("text", {x: (count + 0.5) * step - 1, y: height + 14, "text-anchor": "middle"}, count === most ? `${most}+` : String(count))];
  });
  const hidden = !data.tasks.some((each) => each.regional);
  by("per-picture-title").hidden = by("per-picture").hidden = hidden;
  by("per-picture").replaceChildren(drawing("svg", {viewBox: `0 0 300 ${height + 17}`, role: "img",
    "aria-label": "pictures by how many regions they have"}, ...bars));
}

function overlay(sample) {
  const {width, height} = sample;
  const text = Math.max(width, height) / 24;
  const shapes = [];
  for (const region of sample.regions) {
    if (region.task !== task().name || region.score < state.score) continue;
    const colour = colourOf(region.label);
    const style = {fill: colour, "fill-opacity": 0.12, stroke: colour, "stroke-width": Math.max(width, height) / 170};
    const [left, top, right, bottom] = region.box;
    if (region.rings) {
      for (const ring of region.rings) shapes.push(drawing("polygon", {...style, points: ring.join(" ")}));
    } else {
      shapes.push(drawing("rect", {...style, x: left, y: top, width: right - left, height: bottom - top}));
    }
    const atRight = left > 0.65 * width;
    shapes.push(drawing("text", {x: atRight ? Math.min(right, width) - text / 4 : left + text / 4,
      y: Math.max(text, top - text / 4), "text-anchor": atRight ? "end" : "start"},
    `${region.label} ${region.score.toFixed(2)}`));
  }
  const picture = sample.picture
    ? [drawing("image", {href: sample.picture, width, height})] : [];
  return drawing("svg", {viewBox: `0 0 ${width} ${height}`, style: `--text:${text}px`, role: "img",
    "aria-label": sample.image}, ...picture, ...shapes);
}

function showSamples() {
  const chosen = data.samples.filter((sample) => sample.why === state.why);
  by("samples").replaceChildren(...chosen.map((sample) => {
    const frame = element("div", {class: "frame"}, overlay(sample));
    if (!sample.picture) frame.append(element("span", {class: "quiet gone"}, "the picture is gone"));
    const words = task().regional ? sample.texts.slice(0, 1) : sample.texts.filter((each) => each.task === task().name);
    return element("figure", {}, frame, element("figcaption", {},
      element("div", {class: "name", title: sample.image}, sample.image),
      ...words.map((each) => element("div", {class: "text"}, each.text))));
  }));
}

function tabs(place, names, selected, choose) {
  place.replaceChildren(...names.map(([value, text]) => {
    const tab = element("button", {type: "button", role: "tab", "aria-selected": String(value === selected())}, text);
    tab.addEventListener("click", () => { choose(value); show(); });
    return tab;
  }));
}

function show() {
  tabs(by("tabs"), data.tasks.map((each, place) => [place, each.name]), () => state.task, (value) => { state.task = value; });
  const kinds = [...new Set(data.samples.map((sample) => sample.why))].sort((one, other) =>
    Object.keys(WHY).indexOf(one) - Object.keys(WHY).indexOf(other));
  tabs(by("why"), kinds.map((kind) => [kind, WHY[kind]]), () => state.why, (value) => { state.why = value; });
  showClasses();
  showScores();
  showPerPicture();
  showSamples();
}

by("name").textContent = data.name;
by("about").textContent = `${data.source} · ${data.bundle.model}, ${data.bundle.precision}`;
by("errors-panel").hidden = !data.errors.length;
by("errors-title").textContent = data.failed > data.errors.length
  ? `Errors (the first ${number(data.errors.length)} of ${number(data.failed)})` : "Errors";
by("errors").replaceChildren(...data.errors.map((each) =>
  element("tr", {}, element("td", {}, each.image), element("td", {}, each.error))));
by("score").value = state.score;
by("score").addEventListener("input", (event) => { state.score = Number(event.target.value); show(); });
by("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (getComputedStyle(document.documentElement).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
const kindsThere = new Set(data.samples.map((sample) => sample.why));
if (kindsThere.has("random")) state.why = "random";
showFigures();
show();
