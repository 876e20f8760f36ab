"""README.md of an exported folder: the model card, a snippet to run, and what each file costs."""

import json
from collections.abc import Mapping
from pathlib import Path

from ..bundle_writer import BundleSource
from . import layout
from .fidelity import DtypeFidelity, Fidelity
from .layout import Dtype

_SNIPPET = """\
import {{
  AutoProcessor, Florence2ForConditionalGeneration, load_image,
}} from "@huggingface/transformers";

const id = "{id}";   // on the hub, or a folder that env.localModelPath leads to
const model = await Florence2ForConditionalGeneration.from_pretrained(id);
const processor = await AutoProcessor.from_pretrained(id);

const image = await load_image("street.jpg");
const inputs = await processor(image, "<OD>");
const ids = await model.generate(inputs);
const [text] = processor.batch_decode(ids, {{ skip_special_tokens: false }});
console.log(processor.post_process_generation(text, "<OD>", image.size));
"""


def model_card(source: BundleSource, fidelity: Fidelity) -> str:
    """The page, in Markdown with the hub's metadata on top."""
    name = Path(source.model).name
    return "\n".join(
        [
            _metadata(source.model),
            f"# {name} for transformers.js",
            "",
            f"ONNX files of `{name}` under onnx-community's names, made by "
            "[florence-edge](https://pypi.org/project/florence-edge/) without PyTorch.",
            "",
            "```js",
            _SNIPPET.format(id=name).rstrip(),
            "```",
            "",
            "A task with a text is one string: `<CAPTION_TO_PHRASE_GROUNDING>a red car`, "
            "`<REGION_TO_CATEGORY><loc_52><loc_332><loc_932><loc_774>`.",
            "",
            "## Files",
            "",
            *_table(fidelity),
            "",
            *_recommended(fidelity),
            "",
            "## What transformers.js leaves out",
            "",
            "Answers are greedy: it has no beam search. It resizes pictures in another way than "
            "Pillow, which changes some answers; squash a picture to "
            f"{source.size.image_size} x {source.size.image_size} beforehand to have the "
            "original's. REFERRING_EXPRESSION_SEGMENTATION, REGION_TO_SEGMENTATION and "
            "OPEN_VOCABULARY_DETECTION generate, but their texts have to be read by yourself.",
            "",
        ]
    )


def _metadata(model: str) -> str:
    """What the hub reads; whose licence it is, is the base model's to say."""
    lines = ["library_name: transformers.js", "pipeline_tag: image-text-to-text"]
    if "/" in model and not Path(model).exists():
        lines.append(f"base_model: {json.dumps(model)}")
    return "\n".join(["---", *lines, "---", ""])


def _table(fidelity: Fidelity) -> list[str]:
    """A line a dtype: sizes, and how far it follows float32."""
    graphs = " | ".join(layout.GRAPHS)
    lines = [
        f"| `dtype` | {graphs} | all, MB | same token | worst task loses |",
        f"|---|{'---|' * (len(layout.GRAPHS) + 3)}",
    ]
    for name, found in fidelity.dtypes.items():
        if found.kept:
            lines.append(_row(name, found))
    if fidelity.budget is None:
        return [*lines, "", "What the dtypes cost in accuracy was not measured."]
    left_out = [name for name, found in fidelity.dtypes.items() if not found.kept]
    return [
        *lines,
        "",
        f"Along float32's own answers to all 15 tasks about {fidelity.pictures} pictures: how "
        "often the best next token is the same, and what share of the positions at which float32 "
        f"is decided the worst task loses (at most {fidelity.budget:.1%} were allowed)."
        + (f" Left out, as more was lost: {', '.join(left_out)}." if left_out else ""),
    ]


def _row(name: Dtype, found: DtypeFidelity) -> str:
    sizes = [found.bytes[graph] / 1e6 for graph in layout.GRAPHS]
    cells = [f"`{name}`", *(f"{size:.1f}" for size in sizes), f"{sum(sizes):.1f}"]
    if found.passage is None:
        return f"| {' | '.join([*cells, '', ''])} |"
    judged = found.passage.judged
    every = judged.all_tasks
    task, loss = judged.worst
    equal = every.equal / max(1, every.positions)
    return f"| {' | '.join([*cells, f'{equal:.2%}', f'{loss:.2%} ({task})'])} |"


def _recommended(fidelity: Fidelity) -> list[str]:
    return [
        "Where no `dtype` is passed, config.json says which files are taken: "
        f'{_dtypes(fidelity.usual.dtypes)}; with `device: "webgpu"` '
        f"{_dtypes(fidelity.webgpu.dtypes)}.",
    ]


def _dtypes(dtypes: Mapping[str, Dtype]) -> str:
    names = set(dtypes.values())
    if len(names) == 1:
        return f"`{names.pop()}`"
    return ", ".join(f"{graph} `{name}`" for graph, name in dtypes.items())
