/** The tasks as rows of radio buttons, and the fields for what a task takes. */

import { OWN_WORDS, TASK_GROUPS, TASKS } from "./tasks.js";

const TEXT_LABELS = { [OWN_WORDS]: "Your prompt", CAPTION_TO_PHRASE_GROUNDING: "Your sentence" };

/**
 * @param parts {tasks, about, textField, textLabel, text, regionField, edges}: the elements
 * @param told {onTask(), onEdges(box)}: once all four edges are typed
 */
export class TaskPicker {
  #parts;
  #texts = new Map();

  constructor(parts, told) {
    this.#parts = parts;
    for (const [heading, tasks] of TASK_GROUPS) parts.tasks.append(groupOf(heading, tasks));
    parts.tasks.addEventListener("change", () => {
      this.#update();
      told.onTask();
    });
    parts.text.addEventListener("input", () => this.#texts.set(this.name, parts.text.value));
    for (const edge of parts.edges) {
      edge.addEventListener("change", () => {
        const box = parts.edges.map((each) => each.valueAsNumber);
        if (!box.some(Number.isNaN)) told.onEdges(box);
      });
    }
  }

  /** Add a group of tasks that the server's model has beside the 15. */
  add(heading, tasks) {
    for (const each of tasks) TASKS.set(each.name, each);
    if (tasks.length > 0) this.#parts.tasks.append(groupOf(heading, tasks));
  }

  /** The name of the task that is chosen. */
  get name() {
    return this.#parts.tasks.querySelector("input:checked").value;
  }

  get text() {
    return this.#parts.text.value;
  }

  get takes() {
    return TASKS.get(this.name).takes;
  }

  choose(name) {
    const radio = [...this.#parts.tasks.querySelectorAll("input")].find(
      (each) => each.value === name,
    );
    if (!radio) return;
    radio.checked = true;
    this.#update();
  }

  /** Write a rectangle into the fields, or empty them. */
  showBox(box) {
    this.#parts.edges.forEach((edge, at) => {
      edge.value = box === null ? "" : String(box[at]);
    });
  }

  focusText() {
    this.#parts.text.focus();
  }

  #update() {
    const { name } = this;
    const chosen = TASKS.get(name);
    const { about, textField, textLabel, text, regionField } = this.#parts;
    const code = document.createElement("code");
    code.textContent = name === OWN_WORDS ? "prompt" : `<${name}>`;
    about.replaceChildren(chosen.about, " ", code);
    textField.hidden = chosen.takes !== "text";
    regionField.hidden = chosen.takes !== "region";
    textLabel.textContent = TEXT_LABELS[name] ?? "What to look for";
    text.placeholder = chosen.example ? `for example: ${chosen.example}` : "";
    text.value = this.#texts.get(name) ?? "";
  }
}

function groupOf(heading, tasks) {
  const row = document.createElement("div");
  row.className = "group";
  const title = document.createElement("span");
  title.className = "group-title";
  title.textContent = heading;
  title.setAttribute("aria-hidden", "true");
  const pills = document.createElement("div");
  pills.className = "pills";
  pills.append(...tasks.map((task) => pillOf(heading, task)));
  row.append(title, pills);
  return row;
}

function pillOf(heading, task) {
  const label = document.createElement("label");
  label.className = "pill";
  label.title = task.about;
  const radio = document.createElement("input");
  radio.type = "radio";
  radio.name = "task";
  radio.value = task.name;
  radio.setAttribute("aria-label", `${heading}: ${task.title}`);
  const words = document.createElement("span");
  words.textContent = task.title;
  label.append(radio, words);
  return label;
}
