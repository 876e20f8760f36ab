// Run by Node, which has nothing of florence-edge:
//
//   node program.mjs SYSTEM MEMORY
//
// answers with transformers.js as `speed/worker.py` does, one JSON line by another: SYSTEM names the
// folder with request.json and the number of threads; MEMORY is for programs in Python. The package
// searches greedily alone, and pictures are read by its own RawImage.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const KIB = 1024; // maxRSS is in these
const system = JSON.parse(process.argv[2]);
const request = JSON.parse(readFileSync(join(system.checkpoint, "request.json"), "utf8"));
const seconds = () => performance.now() / 1000;
// What libraries print must not come between the replies.
console.log = console.info = console.debug = console.error;

const send = (reply) => process.stdout.write(`${JSON.stringify(reply)}\n`);
const sizes = () => ({
  resident_bytes: process.memoryUsage().rss,
  peak_bytes: process.resourceUsage().maxRSS * KIB,
  device_bytes: null,
});

async function load() {
  const resolver = createRequire(join(request.modules, "at.js"));
  const place = resolver.resolve("@huggingface/transformers");
  const version = JSON.parse(
    readFileSync(join(request.modules, "@huggingface/transformers/package.json"), "utf8"),
  ).version;
  const transformers = await import(pathToFileURL(place).href);
  transformers.env.allowRemoteModels = false;
  transformers.env.localModelPath = dirname(request.model);
  const id = basename(request.model);
  const model = await transformers.Florence2ForConditionalGeneration.from_pretrained(id, {
    dtype: request.dtype,
    session_options: { intraOpNumThreads: system.threads },
  });
  const processor = await transformers.AutoProcessor.from_pretrained(id);
  return { transformers, model, processor, version };
}

/** Time every run of a session, by the name it has in the model. */
function watch(model) {
  const calls = [];
  for (const [name, session] of Object.entries(model.sessions)) {
    const run = session.run.bind(session);
    session.run = async (...inputs) => {
      const begin = seconds();
      const found = await run(...inputs);
      calls.push({ name, begin, end: seconds() });
      return found;
    };
  }
  return calls;
}

async function answer({ transformers, model, processor }, calls, workload) {
  if (workload.beams !== 1) throw new Error("transformers.js has no beam search");
  if (workload.batch !== 1) throw new Error("transformers.js is measured with one picture");
  calls.length = 0;
  const begin = seconds();
  const image = await transformers.RawImage.read(workload.image);
  const decoded = seconds();
  const inputs = await processor(image, request.prompts[workload.task]);
  const resized = seconds();
  const length = workload.new_tokens
    ? { max_new_tokens: workload.new_tokens, min_new_tokens: workload.new_tokens }
    : {};
  const found = await model.generate({ ...inputs, ...length });
  const generated = seconds();
  const token_ids = found.tolist().map((row) => row.map(Number));
  const end = seconds();
  const took = (wanted) =>
    calls.filter(({ name }) => wanted(name)).map((call) => call.end - call.begin);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const isDecoder = (name) => name.startsWith("decoder");
  const steps = took(isDecoder);
  const vision = sum(took((name) => name.startsWith("vision")));
  const text = sum(took((name) => !isDecoder(name) && !name.startsWith("vision")));
  const stages = {
    "decode image": decoded - begin,
    resize: resized - decoded,
    vision,
    "text encoder": text,
    decoder: sum(steps),
    search: generated - resized - vision - text - sum(steps),
    "post-process": end - generated,
  };
  return { seconds: end - begin, stages, steps, token_ids, host: null };
}

const begun = seconds();
const loaded = await load();
const calls = watch(loaded.model);
send({
  ready: {
    load_seconds: seconds() - begun,
    ...sizes(),
    versions: { "@huggingface/transformers": loaded.version, node: process.versions.node },
  },
});
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if ("memory" in asked) {
    send({ memory: sizes() });
    continue;
  }
  try {
    send({ timing: await answer(loaded, calls, asked.answer) });
  } catch (error) {
    send({ error: String(error.message).split("\n")[0] });
  }
}
process.exit(0);
