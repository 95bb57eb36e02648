"""One tiny model twice: as the plain loops run it, and as the package's backbone, batched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from plain_cases import CASES, REQUESTS, Case, Reference, write_contrast
from plain_defenses import Texts, fit_texts
from plain_runs import Answered, PlainModel, Prompt
from tiny_families import save_family
from tiny_models import save_tiny_llava
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.directions import Directions

FAMILIES = ("llava", "qwen2_vl")
TOKENS = 8


@dataclass(frozen=True)
class Package:
    """What the package answers."""

    texts: list[str]
    stream: Tensor | None
    """`[requests, layers + 1, hidden]` of the pass that answers."""


class SeenDirections:
    """A source of directions that keeps what it gave."""

    def __init__(self, source: Directions) -> None:
        self._source = source
        self.given: list[tuple[dict[str, Any], Any]] = []

    def __call__(self, **how: Any) -> Any:
        found = self._source(**how)
        self.given.append((how, found))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


@dataclass
class Bench:
    """One tiny model twice: plain, and as the package's backbone; answers are made once."""

    plain: PlainModel
    backbone: Backbone
    contrast: Path
    texts: Texts
    _references: dict[tuple[str, int], list[Answered]] = field(default_factory=dict)
    _answers: dict[str, Package] = field(default_factory=dict)
    _directions: Directions | None = None

    def reference(self, name: str, reference: Reference, tokens: int = TOKENS) -> list[Answered]:
        """The plain loop's answers; `name` is the key under which they are kept."""
        key = (name, tokens)
        if key not in self._references:
            self._references[key] = [reference(self.plain, p, self.texts, tokens) for p in REQUESTS]
        return self._references[key]

    def tools(self) -> Tools:
        """What a defense needs; directions are fitted once."""
        if self._directions is None:
            self._directions = Directions(self.backbone, contrast=self.contrast)
        return Tools(self.backbone, CaptionStore(None), SeenDirections(self._directions))

    def ask(self, case: Case, prompts: Sequence[Prompt] = REQUESTS, tokens: int = TOKENS) -> Package:
        """The package's answers to all prompts at once."""
        requests = [Request(Chat.ask(prompt.text, prompt.images)) for prompt in prompts]
        settings = GenerationSettings(max_new_tokens=tokens)
        defense: Any = DEFENSES[case.defense](**case.settings)
        with last_tokens(self.backbone) as passes:
            answers = defense.answer(self.tools(), requests, settings)
        stream = next((one for one in reversed(passes) if one is not None), None)
        return Package([answer.text for answer in answers], stream)

    def answered(self, name: str) -> Package:
        """The package's answers in one of the cases, made once."""
        if name not in self._answers:
            self._answers[name] = self.ask(CASES[name])
        return self._answers[name]


@contextmanager
def last_tokens(backbone: Backbone) -> Iterator[list[Tensor | None]]:
    """The stream at the last position of every pass, `[rows, layers + 1, hidden]`; None for one-token passes.

    It is read where it enters the norms, behind any hook on a layer.
    """
    decoder = backbone.model.get_decoder()
    passes: list[Tensor | None] = []
    rows: list[Tensor] = []

    def seen(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = (args or tuple(kwargs.values()))[0]
        rows.append(hidden[:, -1].detach().clone())
        if module is decoder.norm:
            passes.append(torch.stack(rows, dim=1) if hidden.shape[1] > 1 else None)
            rows.clear()

    places = [*(layer.input_layernorm for layer in decoder.layers), decoder.norm]
    handles = [place.register_forward_pre_hook(seen, with_kwargs=True) for place in places]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def distance(found: Tensor, wanted: Sequence[Answered]) -> float:
    """Largest difference of two streams, relative to the largest activation of each layer."""
    other = torch.stack([answer.stream for answer in wanted])
    scale = other.abs().amax(dim=(0, 2), keepdim=True)
    return float(((found - other).abs() / scale).max())


def save_loud(family: str, folder: Path, hidden: int = 32) -> Path:
    """A tiny model whose end token and image tokens are louder than the others.

    So the answers of a batch end at different steps, and forbidden tokens would win where nothing forbids them.
    """
    if family == "llava":
        save_tiny_llava(folder, hidden=hidden)
    else:
        save_family(family, folder)
    loud = PlainModel(folder)
    with torch.no_grad():
        rows = loud.model.get_output_embeddings().weight
        rows[loud.model.generation_config.eos_token_id] *= 1.7 if family == "llava" else 3.5
        rows[loud.forbidden] *= 3.0
    loud.model.save_pretrained(folder)
    return folder


def make_bench(folder: Path, root: Path) -> Bench:
    """The model in a folder, with the contrast set."""
    contrast = write_contrast(root / "contrast.jsonl")
    backbone = load_backbone(ModelSpec(str(folder), device="cpu"))
    return Bench(PlainModel(folder), backbone, contrast, fit_texts(contrast))


def make_benches(root: Path) -> dict[str, Bench]:
    """Both families."""
    return {family: make_bench(save_loud(family, root / family), root) for family in FAMILIES}
