/** What somebody writes who has types: it must compile, and what is marked must not. */

import * as ort from "onnxruntime-node";
import {
  type CutOff,
  type GenerationOptions,
  type ImageLike,
  type Progress,
  type TaskName,
  BundleError,
  EncodedImage,
  Florence2,
  LabelColours,
  Region,
  RelativeBox,
  Result,
  TASKS,
  clear_cache,
  drawRegions,
  parse,
  styleForPicture,
} from "florence-edge";

const options: GenerationOptions = { num_beams: 3, max_time: 2, early_stopping: "never" };
const picture: ImageLike = { width: 2, height: 1, data: new Uint8Array(6) };

async function answers(model: Florence2, control: AbortController): Promise<string[]> {
  const one: Result = await model.run(picture, "OD");
  const tasks: Result[] = await model.run(picture, ["OD", "CAPTION"]);
  const pictures: Result[] = await model.run([picture, picture], "OCR", { text: null });
  const all: Result[][] = await model.run([picture], ["OD"], { options });
  const view: EncodedImage = await model.encode(picture, { options, signal: control.signal });
  const read = await view.read(new RelativeBox(0.1, 0.2, 0.5, 0.6));
  const boxed = await view.describe([0, 0, 1, 1], { options, cancel: control.signal });
  await view.segment(null, { region: [0, 0, 1, 1], options });
  await view.detect(null, { on_text: (piece: string) => console.log(piece) });
  const said = await view.run("CAPTION_TO_PHRASE_GROUNDING", {
    text: "a car",
    cancel: control.signal,
    on_text: (piece: string) => console.log(piece),
  });
  const free = await model.ask(picture, "How many?", { options });
  const [first]: Region[] = [...one.regions];
  const edges: [number, number, number, number] = first.box;
  const why: CutOff | null = free.cut_off;
  const kept: Result = one.clean().filter(0.3, { classes: ["car"], max_regions: 20 }).filter();
  const labels: (number | null)[] = one.regions.map((region) => region.label_score);
  console.log(kept.scores, edges, why, labels, all, one.to_hf(), one.filter(0.5).scores, one.normalized_boxes);
  return [...tasks, ...pictures, read, boxed, said].map((each) => `${each.text} ${each.status}`);
}

function drawn(canvas: HTMLCanvasElement, result: Result): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const [width, height] = result.image_size;
  drawRegions(context, {
    regions: result.regions,
    colours: new LabelColours().of(result.regions),
    size: result.image_size,
    style: styleForPicture(width, height, result.regions.length),
  });
}

export async function main(name: TaskName): Promise<void> {
  const on_progress = ({ file, loaded, total }: Progress) => console.log(file, loaded / total);
  try {
    const model = await Florence2.load("bundle", { ort, threads: 2, verify: true, on_progress });
    console.log(await answers(model, new AbortController()), model.bundle.precision, drawn);
    await model.close();
  } catch (error) {
    if (error instanceof BundleError) console.error(error.message);
  }
  const text = "car<loc_1><loc_2><loc_3><loc_4>";
  console.log(TASKS[name].needs, parse("OD", text, { image_size: [9, 9] }));
  await clear_cache();
}

export async function mistaken(model: Florence2): Promise<void> {
  // @ts-expect-error: an option of another name
  await model.run(picture, "OD", { options: { beams: 3 } });
  // @ts-expect-error: a box is four numbers
  await model.run(picture, "REGION_TO_OCR", { region: [1, 2] });
  // @ts-expect-error: a list of pictures gives a list
  const one: Result = await model.run([picture], "OD");
  // @ts-expect-error: results are made by the model
  new Result();
  // @ts-expect-error: an argument of another name
  await (await model.encode(picture)).propose({ signals: null });
  // @ts-expect-error: detail is 1, 2 or 3
  await (await model.encode(picture)).caption(4);
  console.log(one);
}
