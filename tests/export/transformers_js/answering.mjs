// What Node and a browser do alike: load an exported folder, and answer questions about pictures.

/**
 * Answers of transformers.js, from an exported folder and nothing else.
 *
 * `job` is {dtype, threads, questions: [{pixels, side, prompt, max_new_tokens}]}; dtype null leaves
 * the choice to config.json. `read` gives side * side * 3 bytes, RGB, of what `pixels` names.
 */
export async function answerAll(transformers, id, job, read) {
  const { AutoProcessor, Florence2ForConditionalGeneration, RawImage } = transformers;
  const begun = performance.now();
  const model = await Florence2ForConditionalGeneration.from_pretrained(id, {
    dtype: job.dtype ?? undefined,
    device: job.device ?? undefined,
    session_options: job.threads ? { intraOpNumThreads: job.threads } : {},
  });
  const processor = await AutoProcessor.from_pretrained(id);
  const load_seconds = (performance.now() - begun) / 1000;

  const answers = [];
  for (const { pixels, side, prompt, max_new_tokens } of job.questions) {
    const image = new RawImage(new Uint8ClampedArray(await read(pixels)), side, side, 3);
    const started = performance.now();
    const inputs = await processor(image, prompt);
    const ids = await model.generate(max_new_tokens ? { ...inputs, max_new_tokens } : inputs);
    const seconds = (performance.now() - started) / 1000;
    const [text] = processor.batch_decode(ids, { skip_special_tokens: false });
    const numbers = (tensor) => tensor.tolist()[0].map(Number);
    answers.push({ ids: numbers(ids), prompt_ids: numbers(inputs.input_ids), text, seconds });
  }
  return { answers, load_seconds };
}
