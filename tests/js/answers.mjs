/**
 * Asks a bundle what a plan says, in node or in a page; what is judged is in Python.
 *
 * @param plan {bundle, load, pictures: [{width, height, rgb}], questions: [[task, text], ...] of each
 *   picture, beams: [1, 3], max_new_tokens}
 * @returns [{picture, task, beams, ...Result.to_json(), image_size}] and, under "batches", the token
 *   ids of all pictures' first question as one batch
 */
export async function answersOf(Florence2, ort, plan) {
  const begun = performance.now();
  const model = await Florence2.load(plan.bundle, { ort, ...plan.load });
  const loaded = (performance.now() - begun) / 1000;
  const pictures = plan.pictures.map(({ width, height, rgb }) => ({
    width,
    height,
    data: Uint8Array.from(atob(rgb), (character) => character.charCodeAt(0)),
  }));
  const answers = [];
  const batches = [];
  for (const num_beams of plan.beams) {
    const options = { num_beams, max_new_tokens: plan.max_new_tokens };
    for (const [number, picture] of pictures.entries()) {
      const view = await model.encode(picture, { options });
      for (const [task, text] of plan.questions[number]) {
        const result = await view.run(task, text ? { text } : {});
        answers.push({ picture: number, beams: num_beams, ...result.to_json() });
      }
    }
    const batch = await model.run(pictures, plan.questions[0][0][0], { options });
    batches.push(batch.map((result) => result.token_ids));
  }
  await model.close();
  return { answers, batches, loaded };
}
