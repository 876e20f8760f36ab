/** What is done on the page, and what is written down of it. */

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const axeSource = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const REGION_TASK = "REGION_TO_CATEGORY";
const PICTURED = ["REFERRING_EXPRESSION_SEGMENTATION"];

/** Wait until what `act` begins has been answered and is shown. */
async function answered(page, act) {
  const reply = page.waitForResponse((response) => response.url().endsWith("/v1/answers"));
  await Promise.all([reply, act()]);
  await page.waitForFunction(() => document.querySelector("#busy").hidden);
  return shown(page);
}

/** What stands in the panel. */
function shown(page) {
  return page.evaluate(() => {
    const text = (root, name) => root.querySelector(name).textContent;
    const words = document.querySelector("#words");
    return {
      words: words.hidden ? null : words.firstChild.textContent,
      score: words.querySelector(".score-chip")?.textContent ?? null,
      regions: [...document.querySelectorAll(".region")].map((row) => ({
        label: text(row, ".label"),
        place: text(row, ".place"),
        score: text(row, ".score"),
        colour: getComputedStyle(row.querySelector(".swatch")).backgroundColor,
      })),
      error: document.querySelector("#error").textContent,
      latency: document.querySelector("#latency").textContent,
      announced: document.querySelector("#announce").textContent,
    };
  });
}

async function begin(page, url, hash) {
  await page.goto(`${url}#${hash}`);
  await page.waitForSelector(".state[data-state=good]");
}

const radio = (page, task) => page.locator(`input[name=task][value=${task}]`);

async function dragBox(page, [left, top, right, bottom], size) {
  const room = await page.locator("#overlay").boundingBox();
  const at = (x, y) => [room.x + (x / size[0]) * room.width, room.y + (y / size[1]) * room.height];
  await page.mouse.move(...at(left, top));
  await page.mouse.down();
  await page.mouse.move(...at((left + right) / 2, (top + bottom) / 2));
  await page.mouse.move(...at(right, bottom));
  await page.mouse.up();
}

const edgesShown = (page) =>
  page.locator("[data-edge]").evaluateAll((fields) => fields.map((field) => field.valueAsNumber));

/** Each task of the plan, one after the other, on one picture. */
async function everyTask(page, { url, picture, questions, shoot }) {
  await begin(page, url, "source=picture&task=OD");
  const answers = { OD: await answered(page, () => page.setInputFiles("#file", picture)) };
  const drawing = await page.evaluate(() => document.querySelector("#overlay").toDataURL());
  await shoot(page, "tasks-OD");
  let drawn = false;
  for (const { task, text, region } of questions) {
    if (task === "OD") continue;
    if (text) {
      await radio(page, task).check();
      await page.fill("#text", text);
      answers[task] = await answered(page, () => page.press("#text", "Enter"));
    } else if (region) {
      // A rectangle stays from task to task, so that choosing the next one asks at once.
      if (drawn) await answered(page, () => radio(page, task).check());
      else await radio(page, task).check();
      drawn = true;
      answers[task] = await answered(page, async () => {
        for (const [at, edge] of region.entries()) {
          await page.fill(`[data-edge="${at}"]`, String(edge));
        }
        await page.press('[data-edge="3"]', "Enter");
      });
    } else {
      answers[task] = await answered(page, () => radio(page, task).check());
    }
    if (PICTURED.includes(task)) await shoot(page, `tasks-${task}`);
  }
  return { answers, drawing };
}

/** In the page: keep the text of a reply, since Chromium keeps none that is read as a stream. */
function keepReply() {
  const { fetch } = window;
  window.fetch = async (...request) => {
    const response = await fetch(...request);
    if (response.url.endsWith("/v1/answers")) window.reply = response.clone().text();
    return response;
  };
}

/** A rectangle by mouse, then by keys; what is asked goes out with it. */
async function dragRegion(page, { url, picture, region, size, shoot }) {
  await page.addInitScript(keepReply);
  await begin(page, url, `source=picture&task=${REGION_TASK}`);
  await page.setInputFiles("#file", picture);
  await page.waitForSelector("#frame:not([hidden])");
  const answer = await answered(page, () => dragBox(page, region, size));
  const reply = await page.evaluate(() => window.reply);
  const [, asked] = /"asked_region":(\[[^\]]*\])/u.exec(reply);
  const dragged = await edgesShown(page);
  await shoot(page, "drag");
  await page.focus("#overlay");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Shift+ArrowDown");
  const byKeys = await edgesShown(page);
  const keyed = await answered(page, () => page.keyboard.press("Enter"));
  return { answer, dragged, byKeys, keyed, asked: JSON.parse(asked) };
}

/** Files that the page saves: the answer as JSON, the picture with the answer on it. */
async function downloads(page, { url, picture, out }) {
  await begin(page, url, "source=picture&task=OD");
  await answered(page, () => page.setInputFiles("#file", picture));
  const names = [];
  for (const button of ["#save-json", "#save-picture"]) {
    const download = page.waitForEvent("download");
    await page.click(button);
    const file = await download;
    names.push(file.suggestedFilename());
    await file.saveAs(`${out}/${file.suggestedFilename()}`);
  }
  await page.locator("#threshold").fill("1");
  return { names, above: await shown(page), hidden: await page.textContent("#hidden-count") };
}

/** The text grows while it is made; nothing is asked for twice. */
async function streaming(page, { url, picture }) {
  await begin(page, url, "source=picture&task=MORE_DETAILED_CAPTION");
  await page.evaluate(() => {
    window.lengths = [];
    new MutationObserver(() => {
      const words = document.querySelector("#words");
      if (words.classList.contains("writing")) window.lengths.push(words.textContent.length);
    }).observe(document.querySelector("#words"), { childList: true, characterData: true, subtree: true });
  });
  await page.click(".options summary");
  await page.fill("#beams", "1");
  const answer = await answered(page, () => page.setInputFiles("#file", picture));
  return { answer, lengths: await page.evaluate(() => window.lengths) };
}

/** Whatever camera the address names, until an answer is shown. */
async function camera(page, { url, source, shoot, name }) {
  await page.context().grantPermissions(["camera"], { origin: new URL(url).origin }).catch(() => {});
  await page.goto(`${url}#source=${source}&task=OD`);
  await page.waitForSelector("#stages:not([hidden])");
  await page.waitForFunction(() => document.querySelectorAll(".region").length > 0);
  // A camera goes on: what belongs together is read in one go.
  const seen = await page.evaluate(() => ({
    overlay: document.querySelector("#overlay").toDataURL(),
    picture: document.querySelector("#picture").toDataURL(),
    size: [document.querySelector("#picture").width, document.querySelector("#picture").height],
    colours: [...document.querySelectorAll(".region")].map((row) => [
      row.querySelector(".label").textContent,
      getComputedStyle(row.querySelector(".swatch")).backgroundColor,
    ]),
  }));
  await page.waitForFunction(() => document.querySelector("#pace").textContent.includes("answers/s"));
  await shoot(page, name);
  const pace = await page.textContent("#pace");
  await radio(page, "CAPTION").check();
  await page.waitForSelector("#subtitle:not([hidden])");
  const subtitle = await page.textContent("#subtitle");
  await page.click("#pause");
  return { ...seen, pace, subtitle, paused: await page.textContent("#pace") };
}

/** The video runs on under the last answer: how often each of the two is drawn in a while. */
async function smooth(page, { url, shoot, name }) {
  await page.context().grantPermissions(["camera"], { origin: new URL(url).origin }).catch(() => {});
  await page.goto(`${url}#source=live&task=OD`);
  await page.waitForFunction(() => document.querySelectorAll(".region").length > 0);
  const offered = await page.locator("#smooth-field").isVisible();
  await page.check("#smooth");
  const drawn = await page.evaluate(async () => {
    const counts = { video: 0, answers: 0 };
    const draw = CanvasRenderingContext2D.prototype.drawImage;
    CanvasRenderingContext2D.prototype.drawImage = function (source, ...rest) {
      if (this.canvas.id === "picture") counts[source.tagName === "VIDEO" ? "video" : "answers"] += 1;
      return draw.call(this, source, ...rest);
    };
    await new Promise((done) => setTimeout(done, 2000));
    return counts;
  });
  const overlay = await page.evaluate(() => document.querySelector("#overlay").toDataURL());
  const colours = await page.locator(".region").evaluateAll((rows) =>
    rows.map((row) => [
      row.querySelector(".label").textContent,
      getComputedStyle(row.querySelector(".swatch")).backgroundColor,
    ]),
  );
  await shoot(page, name);
  await page.click("[data-source=picture]");
  return { drawn, overlay, colours, offered, gone: await page.locator("#smooth-field").isHidden() };
}

/** The picture that the package brings, for those who have none at hand. */
async function example(page, { url, shoot, name }) {
  await begin(page, url, "source=picture&task=OD");
  const answer = await answered(page, () => page.click("#example"));
  await shoot(page, name);
  return { answer };
}

/** A browser gives a page without TLS no camera: what the page says, and that pictures still work. */
async function insecure(page, { url, picture, shoot }) {
  await begin(page, url, "source=live&task=OD");
  await page.waitForSelector("#stage-message:not([hidden])");
  const said = await page.textContent("#stage-message");
  await shoot(page, "insecure");
  await page.click("[data-source=picture]");
  const answer = await answered(page, () => page.setInputFiles("#file", picture));
  return { secure: await page.evaluate(() => window.isSecureContext), said, answer };
}

/** A phone: nothing wider than the screen, fingers draw, targets that fingers hit. */
async function phone(page, { url, picture, region, size, shoot }) {
  await begin(page, url, "source=picture&task=OD");
  const answer = await answered(page, () => page.setInputFiles("#file", picture));
  await shoot(page, "phone");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  const small = await page.evaluate(() =>
    [...document.querySelectorAll("button, summary, .pill, input:not([type=radio], .unseen)")]
      .filter((each) => each.getClientRects().length > 0)
      .map((each) => [each.id || each.textContent.trim(), each.getBoundingClientRect().height])
      .filter(([, height]) => height < 24),
  );
  await radio(page, REGION_TASK).check();
  const drawn = await answered(page, () => dragByTouch(page, region, size));
  return { answer, wide, small, drawn, dragged: await edgesShown(page) };
}

async function dragByTouch(page, [left, top, right, bottom], size) {
  await page.locator("#overlay").scrollIntoViewIfNeeded();
  const room = await page.locator("#overlay").boundingBox();
  const at = (x, y) => ({
    x: room.x + (x / size[0]) * room.width,
    y: room.y + (y / size[1]) * room.height,
  });
  const session = await page.context().newCDPSession(page);
  const touch = (type, ...points) => session.send("Input.dispatchTouchEvent", { type, touchPoints: points });
  await touch("touchStart", at(left, top));
  await touch("touchMove", at((left + right) / 2, (top + bottom) / 2));
  await touch("touchMove", at(right, bottom));
  await touch("touchEnd");
}

/** What axe-core finds on the page with an answer: names, roles, contrast. */
async function accessibility(page, { url, picture, task }) {
  await begin(page, url, `source=picture&task=${task}`);
  await page.evaluate(axeSource);
  const empty = await violations(page);
  if (task.startsWith("REGION")) {
    await page.setInputFiles("#file", picture);
    await page.waitForSelector("#frame:not([hidden])");
  } else {
    await answered(page, () => page.setInputFiles("#file", picture));
  }
  return { empty, full: await violations(page) };
}

function violations(page) {
  return page.evaluate(async () => {
    const { violations: found, passes } = await window.axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    });
    const where = (nodes) => nodes.map((node) => node.html.slice(0, 120)).join(" | ");
    const wrong = found.map(({ id, help, nodes }) => `${id}: ${help}: ${where(nodes)}`);
    return { wrong, passed: passes.map(({ id }) => id) };
  });
}

/** From the address to an answer by keys alone. */
async function keyboard(page, { url, picture }) {
  await begin(page, url, "source=picture&task=OD");
  await answered(page, () => page.setInputFiles("#file", picture));
  await page.keyboard.press("Tab");
  const first = await page.evaluate(() => document.activeElement.className);
  await page.focus("input[name=task][value=OD]");
  const answer = await answered(page, () => page.keyboard.press("ArrowRight"));
  const chosen = await page.evaluate(() => document.activeElement.value);
  await page.focus(".region");
  await page.keyboard.press("Enter");
  const pinned = await page.getAttribute(".region", "aria-pressed");
  return { first, answer, chosen, pinned };
}

/** Dropped and pasted pictures, and what is not one. */
async function dropAndPaste(page, { url, picture }) {
  await begin(page, url, "source=picture&task=CAPTION");
  const bytes = (await readFile(picture)).toString("base64");
  const give = (kind, type) =>
    page.evaluate(
      ([kind, type, bytes]) => {
        const content = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([content], "given.png", { type }));
        const event =
          kind === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
      },
      [kind, type, bytes],
    );
  const dropped = await answered(page, () => give("drop", "image/png"));
  const pasted = await answered(page, () => give("paste", "image/png"));
  await give("drop", "application/pdf");
  await page.waitForSelector("#error:not([hidden])");
  return { dropped, pasted, refused: await page.textContent("#error") };
}

/** What the page says when the server refuses, is away, or wants more than it got. */
async function errors(page, { url, picture, broken }) {
  await begin(page, url, "source=picture&task=OD");
  const said = {};
  const text = async () => {
    await page.waitForSelector("#error:not([hidden])");
    return page.textContent("#error");
  };
  await page.click("#run");
  said.noPicture = await text();
  await page.setInputFiles("#file", broken);
  await page.waitForFunction(() => document.querySelector("#error").textContent.includes("cannot show"));
  said.notAPicture = await text();
  await answered(page, () => page.setInputFiles("#file", picture));
  await radio(page, "OPEN_VOCABULARY_DETECTION").check();
  await page.click("#run");
  said.noText = await text();
  await radio(page, REGION_TASK).check();
  await page.click("#run");
  said.noRegion = await text();
  await page.click(".options summary");
  await page.fill("#max-new-tokens", "4000");
  await radio(page, "CAPTION").check();
  said.refused = await text();
  await page.fill("#max-new-tokens", "");
  await page.route("**/v1/answers", (route) => route.abort());
  await page.click("#run");
  await page.waitForFunction(() => document.querySelector("#error").textContent.includes("reached"));
  said.away = await text();
  return said;
}

/** A server that wants a token: the field, a wrong token, the right one, then an answer. */
async function token(page, { url, picture, secret, shoot }) {
  await page.goto(`${url}#source=picture&task=OD`);
  await page.waitForSelector("#token-card:not([hidden])");
  await page.fill("#token", "wrong");
  await page.click("#token-form button");
  await page.waitForFunction(() => document.querySelector("#token-error").textContent !== "");
  const refused = await page.textContent("#token-error");
  await shoot(page, "token");
  await page.fill("#token", secret);
  await page.click("#token-form button");
  await page.waitForSelector(".state[data-state=good]");
  const answer = await answered(page, () => page.setInputFiles("#file", picture));
  const locked = await page.locator("#token-card").isVisible();
  return { refused, answer, locked };
}

/** A screen to show around: the box's camera with an answer on it. */
async function showcase(page, { url, task, shoot, name }) {
  await page.goto(`${url}#source=camera&task=${task}`);
  await page.waitForSelector("#stages:not([hidden])");
  await page.waitForTimeout(3000);
  await shoot(page, name);
  return {};
}

export const SCENARIOS = {
  everyTask, dragRegion, downloads, streaming, camera, smooth, example, insecure, phone, accessibility, keyboard,
  dropAndPaste, errors, token, showcase,
};
