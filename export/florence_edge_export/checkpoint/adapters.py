"""Adapters merged into a checkpoint's weights, in float32, as peft's merge_and_unload does.

    LoRA     W + s B A            s = alpha / r, with rsLoRA alpha / sqrt(r)
    DoRA     m (W + s B A) / |W + s B A|, by output
    others   the weight that was trained in place of W: a whole module, single words

Several adapters add up: W + w1 (W1 - W) + w2 (W2 - W) + ..., with W1 what the first alone makes of
W. Tied matrices are one: what is added to one of them is added to all, while a module that was
trained whole is one of its own, as in peft.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from florence_edge.bundle import sha256
from florence_edge.errors import BundleError, RequestError

from .adapter_files import AdapterFiles, read_adapter
from .config import Layout
from .embeddings import DECODER, ENCODER, HEAD, SHARED
from .loader import BIAS, AppliedAdapter, Checkpoint
from .names import native_name
from .tensors import FloatArray, StoredTensor

Change = Callable[[FloatArray], FloatArray]  # a weight as an adapter alone makes it

_TIED = (SHARED, ENCODER, DECODER, HEAD)  # in the order in which PyTorch loads them
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class WeightedAdapter:
    """An adapter to merge: what the user called it, its folder, and how much of it counts."""

    name: str
    folder: Path
    weight: float = 1.0


def adapter_argument(text: str) -> tuple[str, float]:
    """`FOLDER_OR_HUB_ID` or `FOLDER_OR_HUB_ID=WEIGHT`, as a name and a weight.

    Raises:
        RequestError: the weight is not a finite number other than 0.
    """
    name, equals, number = text.rpartition("=")
    if not equals or Path(text).is_dir():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not name or not np.isfinite(weight) or weight == 0:
        raise RequestError(
            f"--adapter {text!r} is not of the form FOLDER_OR_HUB_ID or FOLDER_OR_HUB_ID=WEIGHT, "
            "with a weight such as 0.7."
        )
    return name, weight


def tokenizer_folder(folder: Path, adapters: Sequence[WeightedAdapter]) -> Path:
    """Where the tokenizer is: in the last adapter that brings one, or with the checkpoint."""
    bringing = [each.folder for each in adapters if (each.folder / "tokenizer.json").exists()]
    return bringing[-1] if bringing else folder


def merge_adapters(checkpoint: Checkpoint, adapters: Sequence[WeightedAdapter]) -> Checkpoint:
    """The checkpoint with adapters in its weights; they are computed when a tensor is read.

    Without adapters it is the same.

    Raises:
        BundleError: an adapter is damaged, of another kind or another model's, or two change the
            embedding, and one of them brings new words.
        MissingPackageError: its weights are PyTorch's, and PyTorch is not installed.
    """
    if not adapters:
        return checkpoint
    bases = _untied(checkpoint.tensors)
    changes: dict[str, list[_Weighted]] = {}
    applied = list(checkpoint.adapters)
    grown: set[str] = set()
    for adapter in adapters:
        read = read_adapter(adapter.folder)
        names = _native_names(read, checkpoint, bases)
        growing = _grow(bases, read, names, adapter)
        if not growing.isdisjoint(changes):
            raise _apart(read)
        found = _changes(read, names, bases, grown)
        for name, change in found:
            changes.setdefault(name, []).append(_Weighted(adapter.weight, change))
        grown |= growing
        applied.append(AppliedAdapter(adapter.name, adapter.weight, sha256(read.file)))
    tensors = {
        name: base
        if name not in changes
        else StoredTensor(base.shape, partial(_merged, base, tuple(changes[name])))
        for name, base in bases.items()
    }
    made_of = {name: (bases[name], changes.get(name)) for name in _TIED}
    del tensors[ENCODER]  # which nobody reads
    for name, other in ((HEAD, DECODER), (DECODER, SHARED)):
        if made_of[name] == made_of[other]:
            del tensors[name]
    words = tensors[SHARED].shape[0]
    if BIAS in tensors:
        tensors[BIAS] = _padded(tensors[BIAS], words)
    text = replace(checkpoint.config.text, vocab_size=words)
    return replace(
        checkpoint,
        config=replace(checkpoint.config, text=text),
        tensors=tensors,
        adapters=tuple(applied),
    )


@dataclass(frozen=True, slots=True)
class _Weighted:
    """A change, and how much of it counts."""

    weight: float
    change: Change


def _merged(base: StoredTensor, changes: Sequence[_Weighted]) -> FloatArray:
    values = base.load()
    if len(changes) == 1 and changes[0].weight == 1.0:
        return changes[0].change(values)
    total = values.copy()
    for each in changes:
        total += np.float32(each.weight) * (each.change(values) - values)
    return total


def _untied(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors, with every name of a tied matrix; tied ones are one object."""
    shared = tensors[SHARED]
    decoder = tensors.get(DECODER, shared)
    head = tensors.get(HEAD, decoder)
    return {**tensors, SHARED: shared, ENCODER: shared, DECODER: decoder, HEAD: head}


def _tied_with(name: str, bases: Mapping[str, StoredTensor]) -> list[str]:
    """All names of the matrix that `name` names."""
    if name not in _TIED:
        return [name]
    return [other for other in _TIED if bases[other] is bases[name]]


def _native_names(
    adapter: AdapterFiles, checkpoint: Checkpoint, bases: Mapping[str, StoredTensor]
) -> dict[str, str]:
    """The native name of each module, without `.weight`.

    The adapter may have been trained on the same weights in the other layout.

    Raises:
        BundleError: the model has no such modules.
    """
    own = checkpoint.config.layout
    missing: dict[Layout, list[str]] = {}
    for layout in sorted(Layout, key=lambda each: each is not own):
        names = {
            module: native_name(f"{module}.weight", layout).removesuffix(".weight")
            for module in adapter.modules
        }
        missing[layout] = [module for module in names if f"{names[module]}.weight" not in bases]
        if not missing[layout]:
            return names
    shown = missing[own][:_SHOWN]
    of = adapter.config.base_model_name_or_path
    raise BundleError(
        f"{adapter.file} changes {len(missing[own])} modules that {checkpoint.folder} does not "
        f"have, such as {', '.join(shown)}. It was trained on {of or 'another model'}: give that "
        "as the model, or the adapter that belongs to this one."
    )


def _grow(
    bases: dict[str, StoredTensor],
    adapter: AdapterFiles,
    names: Mapping[str, str],
    weighted: WeightedAdapter,
) -> set[str]:
    """Take an adapter's larger embedding, with words that the base model does not have, in place.

    Returns:
        The names of the matrices that are larger now.

    Raises:
        BundleError: only a part of the adapter counts, so what of the new words is not clear.
    """
    grown: set[str] = set()
    for module, parts in adapter.modules.items():
        name, given = f"{names[module]}.weight", parts.get("weight")
        if given is None or name not in _TIED:
            continue
        base = bases[name]
        if given.shape[1:] != base.shape[1:] or given.shape[0] <= base.shape[0]:
            continue
        if weighted.weight != 1.0:
            raise BundleError(
                f"{adapter.file} has {given.shape[0]} words where the base model has "
                f"{base.shape[0]}, so it cannot count {weighted.weight:g} times. Leave its weight "
                "out."
            )
        for other in _tied_with(name, bases):
            bases[other] = given
            grown.add(other)
    return grown


def _apart(adapter: AdapterFiles) -> BundleError:
    """The error for two that change the embedding where one of them brings new words."""
    return BundleError(
        f"{adapter.file} and another adapter change the embedding, and one of them brings new "
        "words: what the rows of their sum are is not clear. Leave one of them out, or merge them "
        "with peft, save the model and export that."
    )


def _changes(
    adapter: AdapterFiles,
    names: Mapping[str, str],
    bases: Mapping[str, StoredTensor],
    grown: Set[str],
) -> list[tuple[str, Change]]:
    """What an adapter makes of tensors, by native name; none that earlier ones have `grown`."""
    layers: dict[str, list[_Layer]] = {}  # that change a weight, by its name
    found: list[tuple[str, Change]] = []
    apart = {f"{names[module]}.weight" for module in adapter.modules if _is_apart(adapter, module)}
    for module in sorted(adapter.modules, key=lambda each: _place(names[each])):
        parts = adapter.modules[module]
        weight, bias = f"{names[module]}.weight", f"{names[module]}.bias"
        layer = _Layer(adapter, module, parts)
        if layer.changes_weight:
            if weight in grown:
                raise _apart(adapter)
            layer.check(weight, bases[weight].shape)
            tied = [weight] if weight in apart else set(_tied_with(weight, bases)) - apart
            for name in tied:
                layers.setdefault(name, []).append(layer)
        if "bias" in parts or "b_bias" in parts:
            if bias not in bases:
                raise BundleError(
                    f"{adapter.file} has a bias for {module}, which has none in the base model. "
                    "Give the model that the adapter was trained on."
                )
            found.append((bias, layer.bias))
    return [*found, *((name, _InTurn(tuple(of_name))) for name, of_name in layers.items())]


def _is_apart(adapter: AdapterFiles, module: str) -> bool:
    """Whether a module was trained whole, and no more tied to others, as in peft."""
    return adapter.config.saves(module) and not adapter.config.ensure_weight_tying


def _place(name: str) -> int:
    """Where a module comes among those that may be one matrix."""
    weight = f"{name}.weight"
    return _TIED.index(weight) if weight in _TIED else -1


@dataclass(frozen=True, slots=True)
class _InTurn:
    """What the modules of one adapter that are one matrix make of it, as peft does it.

    Whole weights are loaded first, of which the last one stays; then each module adds its product.
    """

    layers: tuple["_Layer", ...]

    def __call__(self, base: FloatArray) -> FloatArray:
        for layer in self.layers:
            base = layer.loaded(base)
        for layer in self.layers:
            base = layer.merged(base)
        return base


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """One module of an adapter, with what it has of it."""

    adapter: AdapterFiles
    module: str
    parts: Mapping[str, StoredTensor]

    @property
    def changes_weight(self) -> bool:
        """Whether the module's weight is another one with it."""
        return not {"weight", "a", "embedding_a", "tokens"}.isdisjoint(self.parts)

    @property
    def scale(self) -> float:
        """What the product counts."""
        rank = self.parts["a" if "a" in self.parts else "embedding_a"].shape[0]
        alpha = self.adapter.config.alpha_of(self.module)
        return float(alpha / (rank**0.5 if self.adapter.config.use_rslora else rank))

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse tensors that do not belong to a weight of this shape.

        Raises:
            BundleError: naming both.
        """
        a, b = (
            self._shape(one, other) for one, other in (("a", "embedding_a"), ("b", "embedding_b"))
        )
        fits = True
        if "a" in self.parts:
            convolves = len(shape) == 4
            fits = a[1:] == shape[1:] and b == (shape[0], a[0], *([1, 1] if convolves else []))
            fits = fits and not (convolves and shape[1] == 1)  # by channel: peft merges these not
        elif "embedding_a" in self.parts:
            fits = (a[1], b[0]) == shape and a[0] == b[1]
        elif "weight" in self.parts:
            fits = self.parts["weight"].shape == shape
        else:
            rows = self.adapter.config.tokens_of(self.module)
            fits = rows is not None and self.parts["tokens"].shape == (len(rows), *shape[1:])
            fits = fits and all(0 <= row < shape[0] for row in rows or ())
        if not fits:
            raise BundleError(
                f"{self.adapter.file} has {[list(each.shape) for each in self.parts.values()]} for "
                f"{self.module}, which do not fit {name} {list(shape)} of the base model. Give the "
                "model that the adapter was trained on."
            )

    def loaded(self, base: FloatArray) -> FloatArray:
        """The weight, or the whole one that the adapter has in its place."""
        if "weight" in self.parts and len(self.parts["weight"].shape) == base.ndim:
            return self.parts["weight"].load()
        return base

    def merged(self, base: FloatArray) -> FloatArray:
        """The weight with what this module adds to it."""
        if "tokens" in self.parts:
            rows = list(self.adapter.config.tokens_of(self.module) or ())
            base = base.copy()
            base[rows] = self.parts["tokens"].load()
        if "a" not in self.parts and "embedding_a" not in self.parts:
            return base
        changed = base + self._product(base.shape)
        if "magnitude" not in self.parts:
            return changed
        magnitude = self.parts["magnitude"].load().reshape(-1)
        by_row = magnitude.size == base.shape[0]
        axes = tuple(range(1, base.ndim)) if by_row else (0,)
        norm = np.sqrt(np.square(changed).sum(axis=axes, keepdims=True, dtype=np.float32))
        factor: FloatArray = magnitude.reshape(norm.shape) / norm
        return factor * changed

    def bias(self, base: FloatArray) -> FloatArray:
        """What this module alone makes of the bias."""
        if "bias" in self.parts:
            base = self.parts["bias"].load()
        if "b_bias" in self.parts:
            base = base + np.float32(self.scale) * self.parts["b_bias"].load()
        return base

    def _product(self, shape: tuple[int, ...]) -> FloatArray:
        if "a" in self.parts:
            a, b = self.parts["a"].load(), self.parts["b"].load()
            product = (b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1)).reshape(shape)
        else:
            product = (self.parts["embedding_b"].load() @ self.parts["embedding_a"].load()).T
        return product * np.float32(self.scale)

    def _shape(self, *names: str) -> tuple[int, ...]:
        return next((self.parts[name].shape for name in names if name in self.parts), ())


def _padded(bias: StoredTensor, words: int) -> StoredTensor:
    """A bias of the scores with zeros for new words."""
    missing = words - bias.shape[-1]
    if missing <= 0:
        return bias
    return StoredTensor(
        (*bias.shape[:-1], words),
        lambda: np.pad(bias.load(), [(0, 0)] * (len(bias.shape) - 1) + [(0, missing)]),
    )
