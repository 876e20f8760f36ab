"""What answers come from beside picture and question: a bundle and options.

It is the first line of an answers file, so that no later run adds answers of another kind.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any

from .. import __version__
from ..bundle import TOKENIZER, WEIGHTS, Bundle
from ..contract import GRAPHS
from ..options import GenerationOptions, resolve

KEY = "florence-run"  # what the line is known by; `jq 'select(.image)'` leaves it out

_DIGITS = 16  # of a hash; enough to tell bundles apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A bundle and options, as plain JSON; the bundle's names are only for people."""

    bundle: Mapping[str, str]
    options: Mapping[str, Any]

    def line(self) -> dict[str, Any]:
        """The first line of a file of answers."""
        options = dict(self.options)
        return {KEY: __version__, "bundle": dict(self.bundle), "options": options}

    def differences(self, line: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """What `line` says otherwise: in its words, and in ours.

        Raises:
            KeyError, TypeError: it is no such line.
        """
        then, now = [], []
        if line["bundle"]["sha256"] != self.bundle["sha256"]:
            then.append(_bundle_name(line["bundle"]))
            now.append(_bundle_name(self.bundle))
        stated = dict(line["options"])
        for name in dict.fromkeys((*self.options, *stated)):
            if stated.get(name) != self.options.get(name):
                then.append(f"{name} {stated.get(name)}")
                now.append(f"{name} {self.options.get(name)}")
        return then, now


def origin_of(bundle: Bundle, options: GenerationOptions, shown: Mapping[str, Any]) -> Origin:
    """The origin of answers.

    Args:
        bundle: it is known by the hashes of its graphs, weights and tokenizer.
        options: what they leave to the checkpoint is filled in.
        shown: what else changes answers, such as the convention of coordinates.

    Raises:
        RequestError: an option is out of range.
    """
    generation = resolve(options, bundle.generation, bundle.size)
    filled = {**asdict(generation), "max_time": options.max_time}
    names = (TOKENIZER, WEIGHTS, *(f"{graph}.onnx" for graph in GRAPHS))
    content = json.dumps([bundle.files[name].sha256 for name in names])
    return Origin(
        bundle={
            "model": bundle.model,
            "precision": bundle.precision,
            "target": bundle.target,
            "sha256": sha256(content.encode()).hexdigest()[:_DIGITS],
        },
        options={**{field.name: filled[field.name] for field in fields(options)}, **shown},
    )


def _bundle_name(bundle: Mapping[str, Any]) -> str:
    named = (bundle.get("model"), bundle.get("precision"), f"for {bundle.get('target')}")
    return f"bundle {' '.join(map(str, named))} ({bundle['sha256']})"
