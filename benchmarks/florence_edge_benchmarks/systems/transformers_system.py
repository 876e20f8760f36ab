"""transformers as a compared system: the same checkpoint, pixels, prompts, beams and tokens.

Pictures are decoded and resized and answers read by the same code as for a bundle,
so that figures differ by the model alone.
"""

from pathlib import Path
from typing import Any

import numpy as np

from florence_edge.answers.parse import parse
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.image import load_image, pixels
from florence_edge.options import Generation, resolve
from florence_edge.questions import Question, question
from florence_edge.text import Tokenizer
from florence_edge_export.checkpoint.defaults import ImageProcessing, read_image_processing
from florence_edge_export.checkpoint.source import find_checkpoint
from florence_edge_export.verify.reference import generation_config

from ..gauges.calls import Calls
from ..gauges.stages import Timing, stages_from_calls
from ..gauges.torch_place import Steps, torch_cuda
from .devices import CPU, Device
from .transformers_model import compile_parts, load_model
from .transformers_variants import Variant
from .workload import Workload


class TransformersSystem:
    """A loaded transformers model that answers workloads as the bundle of its checkpoint does.

    `reader` says who read the checkpoint.
    """

    def __init__(
        self, bundle: Bundle, model: Any, image: ImageProcessing, steps: Steps, reader: str = ""
    ) -> None:
        import torch

        self._torch = torch
        self._bundle = bundle
        self._model = model
        self._tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
        self._calls = Calls()
        self._steps = steps
        self._mean = torch.tensor(image.mean, device=model.device).view(1, 3, 1, 1)
        self._std = torch.tensor(image.std, device=model.device).view(1, 3, 1, 1)
        self.reader = reader
        # `generate` calls the whole model for each step, whose time is the engine's.
        model.register_forward_pre_hook(steps.mark)
        model.register_forward_hook(steps.mark)

    @staticmethod
    def load(
        variant: Variant, bundle_folder: Path, checkpoint: str, threads: int, device: Device = CPU
    ) -> "TransformersSystem":
        """Load the checkpoint; the bundle gives image size, tokenizer and generation defaults.

        Raises:
            BundleError: the checkpoint cannot be used, or torch or transformers are missing.
            BackendError: torch finds no such GPU.
        """
        folder = find_checkpoint(checkpoint)
        model, reader = load_model(folder, variant)
        import torch  # what was called says which extra is missing

        torch.set_num_threads(threads)
        cuda = None if device.gpu is None else torch_cuda(device.gpu)
        model = model.to("cpu" if device.gpu is None else f"cuda:{device.gpu}")
        if variant.compiled:
            compile_parts(model)
        image, steps = read_image_processing(folder), Steps(Calls().clock, cuda)
        return TransformersSystem(Bundle.load(bundle_folder), model, image, steps, reader)

    def answer(self, workload: Workload) -> Timing:
        """Answer once, picture file to regions, and say how long each stage took."""
        with self._torch.inference_mode():
            return self._answer(workload)

    def _answer(self, workload: Workload) -> Timing:
        generation = resolve(workload.options, self._bundle.generation, self._bundle.size)
        self._calls.take()
        begin = self._calls.clock()
        images = [load_image(workload.image) for _ in range(workload.batch)]
        decoded = self._calls.clock()
        values = self._normalized(images)
        with self._calls.record("look"):
            features = self._model.get_image_features(values).pooler_output
            self._steps.wait()
        asked = question(workload.task, workload.text, None, images[0].size)
        with self._calls.record("read"):
            hidden = self._read(features, asked)
            self._steps.wait()
        self._steps.start()
        ids = self._generate(hidden, generation, workload.new_tokens)
        answers = [self._complete(row, generation) for row in ids.tolist()]
        for image, answer in zip(images, answers, strict=True):
            parse(workload.task, self._tokenizer.decode(answer), image_size=image.size)
        end = self._calls.clock()
        calls = self._calls.take() + self._steps.take()
        return Timing(
            seconds=end - begin,
            stages=stages_from_calls(calls, begin=begin, decoded=decoded, end=end),
            steps=tuple(call.end - call.begin for call in calls if call.what == "step"),
            token_ids=tuple(map(tuple, answers)),
        )

    def _normalized(self, images: list[Any]) -> Any:
        """[B, 3, S, S] as the checkpoint's image processor makes it, from the runtime's bytes."""
        side = self._bundle.size.image_size
        shown = np.stack([pixels(image, side) for image in images])
        squares = self._torch.from_numpy(shown).to(self._model.device)
        values = squares.permute(0, 3, 1, 2).float() / 255
        return ((values - self._mean) / self._std).to(self._model.dtype)

    def _read(self, features: Any, asked: Question) -> Any:
        language = self._model.model.language_model
        prompt = self._tokenizer.prompt_ids(asked.prompt)
        ids = self._torch.tensor([prompt] * len(features), device=features.device)
        joined = self._torch.cat([features, language.get_input_embeddings()(ids)], dim=1)
        return language.encoder(inputs_embeds=joined).last_hidden_state

    def _generate(self, hidden: Any, generation: Generation, new_tokens: int | None) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        config = generation_config(generation)
        config.min_new_tokens = new_tokens
        return self._model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=hidden.new_ones(hidden.shape[:2], dtype=self._torch.long),
            generation_config=config,
        )

    @staticmethod
    def _complete(ids: list[int], generation: Generation) -> list[int]:
        """An answer without the padding that a batch gave it."""
        while len(ids) > 1 and ids[-1] == generation.pad_token_id:
            ids = ids[:-1]
        return ids
