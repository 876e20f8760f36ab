"""Answers of a bundle, and those of transformers' `from_pretrained(folder).generate`."""

from pathlib import Path

import numpy as np
import torch
import transformers

from florence_edge import Florence2, GenerationOptions
from florence_edge.tasks import Prompt, prompt_for
from florence_edge_calibration.scenes import draw_scene, generate_scene
from florence_edge_export.checkpoint.defaults import read_image_processing


def answers(bundle: Path, beams: int) -> list[list[int]]:
    """Token ids about a picture, for two tasks."""
    with Florence2.load(bundle, threads=1) as model:
        scene = draw_scene(generate_scene(3), model.bundle.size.image_size)
        options = GenerationOptions(num_beams=beams, max_new_tokens=16)
        view = model.encode(scene)
        return [list(view.run(task, options=options).token_ids) for task in ("OD", "CAPTION")]


def generated(folder: Path, bundle: Path, beams: int) -> list[list[int]]:
    """The same of `from_pretrained(folder).generate`, from pixels on."""
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    )
    image = read_image_processing(folder)
    scene = np.asarray(draw_scene(generate_scene(3), image.size), dtype=np.float32) / 255
    mean, std = (np.array(values, dtype=np.float32) for values in (image.mean, image.std))
    normal = (scene - mean) / std
    pixels = torch.from_numpy(normal.transpose(2, 0, 1)[None].copy())
    found = []
    with Florence2.load(bundle, threads=1) as ours, torch.inference_mode():
        for task in ("OD", "CAPTION"):
            words = ours.encode_prompts([prompt(task, image.size)])[0][0].tolist()
            places = [model.config.image_token_id] * ours.bundle.size.image_tokens
            ids = torch.tensor([[*places, *words]])
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels,
                num_beams=beams,
                early_stopping=beams > 1,
                max_new_tokens=16,
            )
            found.append(output[0].tolist())
    return found


def prompt(task: str, side: int) -> Prompt:
    return prompt_for(task, None, None, (side, side))
