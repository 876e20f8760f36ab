"""Draw docs/run.svg: the way of one `model.run` from a file to an answer, on a CPU.

python docs/draw_run.py
"""

from html import escape
from pathlib import Path

OUTPUT = Path(__file__).with_name("run.svg")

INK, SOFT, LINE, PAPER = "#1d2733", "#5b6b7b", "#c9d3dd", "#ffffff"
ROW, TOP, BAND_TITLE, GAP = 58, 92, 34, 14
WIDTH, SPINE, TEXT = 940, 352, 388
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

# Title, colour, tint, and the files in the order in which a run enters them.
BANDS = (
    ("ASK", "#3567b0", "#eef4fc", (
        ("model.py", "The public face: takes the picture and the task, and calls all below."),
        ("tasks.py", "The table of 15 tasks; a task becomes a prompt.", "a task is defined"),
        ("engine_lock.py", "One caller at a time has the engine, and none once it is closed."),
        ("options.py", "What the caller left open is filled in from the checkpoint."),
    )),
    ("SEE", "#0b7a75", "#ebf7f6", (
        ("image_file.py", "Which formats are opened, how large; decoded, turned upright."),
        ("processing.py", "Pictures to squares, prompts to ids, and tokens to results."),
        ("image.py", "The picture as RGB, resized as transformers does."),
        ("files.py", "A file is opened if it is one, and no pipe or device."),
        ("backends/host.py", "Runs the encoders, owns the decoder's caches.", "a cache row moves"),
        ("backends/ort.py", "Runs one graph in ONNX Runtime, without a copy."),
    )),
    ("WRITE", "#9a5b00", "#fdf5e8", (
        ("bundle.py", "Whether the mapped weights are still those that were opened."),
        ("encoded_image.py", "A picture with its features, and what it can be asked."),
        ("questions.py", "A batch of questions, each with an end and an error of its own."),
        ("tokenizer.py", "Text to ids before the loop, ids to text behind it."),
        ("generate.py", "Starts the clock, then loops: the decoder scores, the search chooses."),
        ("contract.py", "Names, shapes and dtypes of the three graphs, written once."),
        ("backends/beam_reorder.py", "Which cache rows differ after beams changed places."),
        ("search.py", "Greedy and beam search, equal to transformers' own.", "a token is chosen"),
        ("logits_process.py", "What may not, must or should rarely come next."),
    )),
    ("ANSWER", "#7a3b8f", "#f7f0fa", (
        ("results/result.py", "The answer with its scores, and how to use it."),
        ("results/parse.py", "Which stretch of the text is a label, and which is a location."),
        ("regions.py", "Location tokens to pixels."),
    )),
)  # fmt: skip


def text(x: float, y: float, words: str, *, size: float = 14, fill: str = INK, **more: str) -> str:
    """Words with their baseline's left end at x, y; `more` are attributes, _ for -."""
    rest = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}"{rest}>{escape(words)}</text>'
    )


def box(  # noqa: PLR0913 - a rectangle has so many
    x: float, y: float, w: float, h: float, fill: str, *, edge: str = "none", r: float = 8
) -> str:
    """A rounded rectangle."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{r:g}" fill="{fill}" '
        f'stroke="{edge}"/>'
    )


def arrow(path: str, colour: str = SOFT, *, dashed: bool = False) -> str:
    """A line with a head at its end."""
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash} '
        'marker-end="url(#head)"/>'
    )


def graph(y: float, name: str, what: str) -> str:
    """One of the three ONNX graphs, in the left column."""
    return (
        box(56, y, 200, 46, INK)
        + text(156, y + 20, name, size=13.5, fill=PAPER, text_anchor="middle", font_family=MONO)
        + text(156, y + 37, what, size=11.5, fill="#c4d0dc", text_anchor="middle")
    )


def note(y: float, words: str) -> str:
    """What flows there, in the left column."""
    return text(156, y, words, size=12.5, fill=SOFT, text_anchor="middle")


def photo(x: float, y: float, *, found: bool) -> str:
    """A little street; with its car found, if there is an answer."""
    parts = [
        box(x, y, 92, 62, "#cfe6f7", edge=LINE, r=6),
        f'<path d="M{x + 1:g} {y + 46:g}h90v10a6 6 0 0 1 -6 6h-78a6 6 0 0 1 -6 -6z" '
        'fill="#8d98a4"/>',
        box(x + 10, y + 14, 16, 32, "#b9a48c", r=1),
        box(x + 28, y + 22, 12, 24, "#a08b74", r=1),
        f'<circle cx="{x + 76:g}" cy="{y + 14:g}" r="6" fill="#f5c542"/>',
        f'<path d="M{x + 46:g} {y + 50:g}v-8l7 -1 6 -8h14l6 8 5 1v8z" fill="#c8362f"/>',
        f'<circle cx="{x + 54:g}" cy="{y + 51:g}" r="4" fill="{INK}"/>',
        f'<circle cx="{x + 76:g}" cy="{y + 51:g}" r="4" fill="{INK}"/>',
    ]
    if found:
        parts.append(
            f'<rect x="{x + 42:g}" y="{y + 28:g}" width="46" height="30" fill="none" '
            'stroke="#7a3b8f" stroke-width="2.5"/>'
        )
        parts.append(box(x + 42, y + 15, 46, 13, "#7a3b8f", r=0))
        parts.append(text(x + 65, y + 25, "car 0.82", size=9.5, fill=PAPER, text_anchor="middle"))
    return "".join(parts)


def rows() -> tuple[list[str], dict[str, float]]:
    """The files along their spine, and the middle of each one's row."""
    parts: list[str] = []
    middle: dict[str, float] = {}
    y, number = float(TOP), 0
    for title, colour, tint, files in BANDS:
        height = BAND_TITLE + ROW * len(files) + 4
        parts.append(box(16, y, WIDTH - 32, height, tint, r=12))
        parts.append(
            text(TEXT, y + 23, title, size=12.5, fill=colour, font_weight="700", letter_spacing="2")
        )
        first = y + BAND_TITLE + ROW / 2 - 6
        last = first + ROW * (len(files) - 1)
        parts.append(f'<path d="M{SPINE} {first:g}V{last:g}" stroke="{colour}" stroke-width="2"/>')
        for index, (name, sentence, *where) in enumerate(files):
            number += 1
            at = first + ROW * index
            middle[name] = at
            parts.append(f'<circle cx="{SPINE}" cy="{at:g}" r="14" fill="{colour}"/>')
            parts.append(
                text(SPINE, at + 4.5, str(number), size=13, fill=PAPER, text_anchor="middle",
                     font_weight="700")
            )  # fmt: skip
            parts.append(text(TEXT, at - 3, name, size=15, font_family=MONO, font_weight="700"))
            parts.append(text(TEXT, at + 16, sentence, size=13.5, fill=SOFT))
            if where:
                words = f"here {where[0]}"
                left = TEXT + 9.2 * len(name) + 14
                parts.append(box(left, at - 17, 7.2 * len(words) + 18, 20, colour, r=10))
                parts.append(
                    text(left + 9, at - 3, words, size=12, fill=PAPER, font_weight="600",
                         textLength=f"{7.2 * len(words):g}")
                )  # fmt: skip
        y += height + GAP
    middle["end"] = y - GAP
    return parts, middle


def flow(at: dict[str, float]) -> list[str]:
    """The left column: what the picture and the task turn into."""
    see, host, write = at["processing.py"], at["backends/host.py"], at["questions.py"]
    loop, chosen, parse = at["backends/beam_reorder.py"], at["search.py"], at["results/parse.py"]
    ask = at["model.py"]
    square = see + 8
    grid = "".join(
        f'<path d="M{132 + 12 * i} {square:g}v48M{132:g} {square + 12 * i:g}h48" '
        f'stroke="{PAPER}" stroke-width="1.2"/>'
        for i in range(1, 4)
    )
    prompt = write - 26
    features = host + 44
    return [
        photo(70, ask - 12, found=False),
        text(116, ask + 66, "street.jpg", size=12.5, fill=SOFT, text_anchor="middle"),
        box(186, ask + 2, 62, 28, PAPER, edge=LINE, r=14),
        text(217, ask + 21, "OD", size=14, text_anchor="middle", font_family=MONO),
        note(ask + 96, "a path, and a task"),
        arrow(f"M156 {ask + 104:g}V{square - 8:g}"),
        box(132, square, 48, 48, "#7fb7d9", r=2), grid,
        note(square + 64, "pixels  uint8 [1, 768, 768, 3]"),
        arrow(f"M156 {square + 72:g}V{host - 10:g}"),
        graph(host - 6, "vision_encoder.onnx", "run once a picture"),
        arrow(f"M156 {features - 2:g}V{prompt - 24:g}"),
        note(prompt - 8, "image features, and the prompt's ids"),
        arrow(f"M156 {prompt:g}V{prompt + 20:g}"),
        graph(prompt + 24, "text_encoder.onnx", "the prefill"),
        arrow(f"M156 {prompt + 72:g}V{prompt + 90:g}"),
        note(prompt + 106, "keys and values of cross-attention"),
        arrow(f"M156 {prompt + 114:g}V{loop - 30:g}"),
        graph(loop - 26, "decoder.onnx", "one step a token"),
        arrow(f"M216 {loop + 22:g}V{chosen - 2:g}"),
        text(222, loop + 44, "top scores", size=12, fill=SOFT),
        arrow(f"M96 {chosen - 2:g}V{loop + 24:g}"),
        text(84, loop + 36, "tokens,", size=12, fill=SOFT, text_anchor="end"),
        text(84, loop + 51, "parents", size=12, fill=SOFT, text_anchor="end"),
        box(76, chosen + 2, 160, 26, PAPER, edge=LINE, r=13),
        text(156, chosen + 20, "search, until </s>", size=12.5, text_anchor="middle"),
        arrow(f"M156 {chosen + 30:g}V{at['results/result.py'] - 26:g}"),
        note(at["results/result.py"] - 10, "car<loc_53><loc_333><loc_932>..."),
        arrow(f"M156 {at['results/result.py']:g}V{parse - 40:g}"),
        photo(110, parse - 34, found=True),
        note(parse + 48, "regions, labels, scores"),
    ]  # fmt: skip


def drawing() -> str:
    """The whole picture as SVG."""
    parts, at = rows()
    height = at["end"] + 20
    head = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{SOFT}"/></marker></defs>'
    )
    body = [
        box(0, 0, WIDTH, height, PAPER, edge=LINE, r=14),
        text(30, 44, "From a file to an answer", size=24, font_weight="700"),
        text(30, 70, "One model.run on a CPU: the 21 files of runtime/florence_edge that it "
             "passes through, in the order it enters them.", size=14, fill=SOFT),
        *parts,
        *flow(at),
    ]  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'font-family="{SANS}" role="img"><title>From a file to an answer</title>{head}\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    OUTPUT.write_text(drawing(), encoding="utf-8")
