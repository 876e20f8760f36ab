"""Run by the interpreter of optimum's environment, which has nothing of florence-edge.

`python program.py SYSTEM MEMORY`: exports the BART checkpoint that SYSTEM names with optimum, then
answers as `speed/worker.py` does. It times the language model alone: stages `text encoder`,
`decoder` and `search`. MEMORY is the path of `florence_edge_jetson/machine/system.py`.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

_PACKAGES = ("optimum-onnx", "transformers", "torch", "onnxruntime")


def load_module(path: str) -> Any:
    """A module loaded by its path, since its package cannot be imported here."""
    name = Path(path).stem
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    SourceFileLoader(name, path).exec_module(module)
    return module


class Bart:
    """The exported language model, with the calls into its graphs timed."""

    def __init__(self, system: dict[str, Any]) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read at the import
        import onnxruntime
        import torch

        bart_model = import_module("optimum.onnxruntime").ORTModelForSeq2SeqLM
        torch.set_num_threads(system["threads"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = system["threads"]
        self.torch = torch
        self.request = json.loads((Path(system["checkpoint"]) / "request.json").read_text())
        exported = Path(system["checkpoint"]) / "exported"
        if not exported.exists():
            bart_model.from_pretrained(system["checkpoint"], export=True).save_pretrained(exported)
        self.model = bart_model.from_pretrained(exported, session_options=options)
        self.encoder_calls: list[tuple[float, float]] = []
        self.decoder_calls: list[tuple[float, float]] = []
        self.model.encoder.forward = _timed(self.model.encoder.forward, self.encoder_calls)
        self.model.decoder.forward = _timed(self.model.decoder.forward, self.decoder_calls)

    def answer(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Generate once over made-up source tokens; what they are does not change the time."""
        length = self.request["source_lengths"][workload["task"]]
        draw = self.torch.Generator().manual_seed(0)
        shape = (workload["batch"], length)
        source = self.torch.randint(4, self.request["vocab_size"], shape, generator=draw)
        new_tokens = workload["new_tokens"]
        if new_tokens is None:
            raise ValueError("optimum needs a number of tokens: give --new-tokens")
        self.encoder_calls.clear()
        self.decoder_calls.clear()
        begin = perf_counter()
        ids = self.model.generate(
            input_ids=source,
            attention_mask=self.torch.ones_like(source),
            num_beams=workload["beams"],
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            no_repeat_ngram_size=self.request["no_repeat_ngram_size"],
            length_penalty=self.request["length_penalty"] if workload["beams"] > 1 else 1.0,
            early_stopping=self.request["early_stopping"] if workload["beams"] > 1 else False,
            do_sample=False,
        )
        end = perf_counter()
        steps = [stop - start for start, stop in self.decoder_calls]
        encoded = self.encoder_calls[-1][1]
        stages = {
            "text encoder": encoded - begin,
            "decoder": sum(steps),
            "search": end - encoded - sum(steps),
        }
        return {
            "seconds": end - begin,
            "stages": stages,
            "steps": steps,
            "token_ids": ids.tolist(),
            "host": None,
        }


def _timed(function: Callable[..., Any], calls: list[tuple[float, float]]) -> Callable[..., Any]:
    @wraps(function)  # `generate` reads the signature
    def timed(*arguments: Any, **named: Any) -> Any:
        begin = perf_counter()
        result = function(*arguments, **named)
        calls.append((begin, perf_counter()))
        return result

    return timed


def main() -> None:
    """Load, then answer one JSON line by another until there are no more."""
    loop = load_module(str(Path(__file__).parents[1] / "peer_loop.py"))
    loop.answer_lines(Bart, _PACKAGES, load_module(sys.argv[2]))


if __name__ == "__main__":
    main()
