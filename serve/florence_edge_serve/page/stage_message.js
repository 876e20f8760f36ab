/** What stands in the picture's place: waiting, refused, no camera over plain http. */

/** @param room the element that holds the message */
export class StageMessage {
  #room;

  constructor(room) {
    this.#room = room;
  }

  hide() {
    this.#room.hidden = true;
  }

  wait(words) {
    const turning = document.createElement("i");
    turning.className = "turning";
    turning.setAttribute("aria-hidden", "true");
    this.#show("status", [turning, paragraph(words)]);
  }

  /**
   * @param title a few words
   * @param sentences what happened, and what to do
   * @param way [words, function] of a button, or nothing
   */
  refuse(title, sentences, way) {
    const heading = document.createElement("h3");
    heading.textContent = title;
    this.#show("alert", [heading, ...sentences.map(paragraph), ...(way ? [button(way)] : [])]);
  }

  /** A browser gives a page a camera over https or on localhost alone: say so, and what to do. */
  insecure({ hostname, port }, toBoxCamera) {
    const heading = document.createElement("h3");
    heading.textContent = "This device’s camera needs a secure address";
    const about = paragraph(
      `Browsers give a page the camera only over https, or on localhost. This page came over plain http from ${hostname}. Pictures and the box’s camera work all the same. For this device’s camera, do one of these:`,
    );
    const ways = document.createElement("ul");
    const served = port || "80";
    ways.append(
      entry("start the server with a certificate:", "florence-serve BUNDLE --certificate cert.pem --key key.pem"),
      entry("or reach it through a tunnel:", `ssh -L 8000:localhost:${served} USER@${hostname}`, "then open http://localhost:8000"),
    );
    const way = toBoxCamera ? [button(["Use the box’s camera", toBoxCamera])] : [];
    this.#show("alert", [heading, about, ways, ...way]);
  }

  #show(role, children) {
    this.#room.setAttribute("role", role);
    this.#room.replaceChildren(...children);
    this.#room.hidden = false;
  }
}

function paragraph(words) {
  const made = document.createElement("p");
  made.textContent = words;
  return made;
}

function entry(words, command, after = "") {
  const made = document.createElement("li");
  const code = document.createElement("code");
  code.textContent = command;
  made.append(words, " ", code, after ? ` ${after}` : "");
  return made;
}

function button([words, act]) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "primary";
  made.textContent = words;
  made.addEventListener("click", act);
  return made;
}
