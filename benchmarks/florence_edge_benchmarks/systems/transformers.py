"""transformers as a compared system: the same checkpoint, pixels, prompts, beams and tokens.

The checkpoint is loaded as transformers' users do. Pictures are decoded and resized and answers
parsed by the same code as for a bundle, so that figures differ by the model alone.
"""

from pathlib import Path
from typing import Any

import numpy as np

from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.image import load_image, pixels
from florence_edge.options import GenerationConfig, resolve
from florence_edge.results.parse import parse
from florence_edge.tasks import Prompt, prompt_for
from florence_edge.tokenizer import Tokenizer
from florence_edge_export.checkpoint.config import Layout
from florence_edge_export.checkpoint.defaults import ImageProcessing, read_image_processing
from florence_edge_export.checkpoint.loader import find_checkpoint, read_checkpoint
from florence_edge_export.verify.reference import Reference, check_installed, generation_config

from ..timing import Calls, Steps, Timing, stages_from_calls, torch_cuda
from .system import CPU, FROM_PRETRAINED, OUR_READER, SystemDevice, Variant
from .workload import Workload


def load_model(folder: Path, variant: Variant) -> tuple[Any, str]:
    """The model on the CPU in evaluation mode, and who read the files.

    transformers reads its own native layout; Microsoft's needs code from the hub, so there it is
    florence-export that fills transformers' class.

    Raises:
        BundleError: the checkpoint cannot be used.
        MissingPackageError: torch or transformers are not installed.
    """
    check_installed()
    import torch

    dtype = getattr(torch, variant.dtype)
    checkpoint = read_checkpoint(folder)
    if checkpoint.config.layout is not Layout.NATIVE:
        return Reference(checkpoint).model.to(dtype), OUR_READER
    from transformers import Florence2ForConditionalGeneration

    model = Florence2ForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True
    )
    return model.eval(), FROM_PRETRAINED


def compile_parts(model: Any, mode: str | None = None) -> None:
    """Compile what runs: vision tower, encoder (for any length) and decoder.

    The decoder is compiled for the static cache that `TransformersSystem` then generates with, so
    that its shapes are the same at every step.

    Args:
        model: transformers' model.
        mode: torch.compile's for the decoder, such as `reduce-overhead` (CUDA graphs).
    """
    import torch

    # Each prompt length and number of beams has graphs of its own; past 8, torch would compile no
    # more and run them eagerly.
    torch._dynamo.config.cache_size_limit = 64
    model.model.vision_tower.compile()
    model.model.language_model.encoder.compile(dynamic=True)
    model.model.language_model.decoder.compile(mode=mode)


class TransformersSystem:
    """A loaded transformers model that answers workloads as the bundle of its checkpoint does.

    `reader` says who read the checkpoint. With `static_cache`, `generate` keeps a cache of full
    length, as compiled decoders want, in place of one that grows.
    """

    def __init__(
        self,
        bundle: Bundle,
        model: Any,
        image: ImageProcessing,
        steps: Steps,
        *,
        reader: str = "",
        static_cache: bool = False,
    ) -> None:
        import torch

        self._torch = torch
        self._static_cache = static_cache
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
        variant: Variant,
        bundle_folder: Path,
        checkpoint: str,
        threads: int,
        device: SystemDevice = CPU,
    ) -> "TransformersSystem":
        """Load the checkpoint; the bundle gives image size, tokenizer and generation defaults.

        Raises:
            BundleError: the checkpoint cannot be used.
            MissingPackageError: torch or transformers are not installed.
            BackendError: torch finds no such GPU.
        """
        folder = find_checkpoint(checkpoint)
        model, reader = load_model(folder, variant)
        import torch  # load_model says which extra is missing

        torch.set_num_threads(threads)
        cuda = None if device.gpu is None else torch_cuda(device.gpu)
        model = model.to("cpu" if device.gpu is None else f"cuda:{device.gpu}")
        if variant.compiled:
            compile_parts(model)
        image, steps = read_image_processing(folder), Steps(Calls().clock, cuda)
        bundle = Bundle.load(bundle_folder)
        return TransformersSystem(
            bundle, model, image, steps, reader=reader, static_cache=variant.compiled
        )

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
        with self._calls.record("encode_image"):
            features = self._model.get_image_features(values).pooler_output
            self._steps.wait()
        prompt = prompt_for(workload.task, workload.text, None, images[0].size)
        with self._calls.record("prefill"):
            hidden = self._prefill(features, prompt)
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
            steps=tuple(call.end - call.begin for call in calls if call.kind == "step"),
            token_ids=tuple(map(tuple, answers)),
        )

    def _normalized(self, images: list[Any]) -> Any:
        """[B, 3, S, S] as the checkpoint's image processor makes it, from the runtime's bytes."""
        side = self._bundle.size.image_size
        bytes_of = np.stack([pixels(image, side) for image in images])
        squares = self._torch.from_numpy(bytes_of).to(self._model.device)
        values = squares.permute(0, 3, 1, 2).float() / 255
        return ((values - self._mean) / self._std).to(self._model.dtype)

    def _prefill(self, features: Any, prompt: Prompt) -> Any:
        """The text encoder's output [B, image tokens + T, d_model]."""
        language = self._model.model.language_model
        row = self._tokenizer.prompt_ids(prompt.wording)
        ids = self._torch.tensor([row] * len(features), device=features.device)
        joined = self._torch.cat([features, language.get_input_embeddings()(ids)], dim=1)
        return language.encoder(inputs_embeds=joined).last_hidden_state

    def _generate(self, hidden: Any, generation: GenerationConfig, new_tokens: int | None) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        config = generation_config(generation)
        config.min_new_tokens = new_tokens
        if self._static_cache:
            config.cache_implementation = "static"
            config.disable_compile = True  # of the whole model: `compile_parts` has chosen what
        return self._model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=hidden.new_ones(hidden.shape[:2], dtype=self._torch.long),
            generation_config=config,
        )

    @staticmethod
    def _complete(ids: list[int], generation: GenerationConfig) -> list[int]:
        """An answer without the padding that a batch gave it."""
        while len(ids) > 1 and ids[-1] == generation.pad_token_id:
            ids = ids[:-1]
        return ids
