"""The two scorers of ETA, each a model of its own on this machine: a reward model, and CLIP.

They are loaded once a process and kept. Neither has been run by us with its published weights; the rules around them
were checked on tiny random models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from PIL import Image

from shiftdc_eval.core.errors import ConfigError, ItemError, ModelError
from shiftdc_eval.core.weights import load_whole
from shiftdc_eval.judges.local.model import LocalModel


@dataclass(frozen=True)
class Reward:
    """A reward model that reads a prompt and an answer in its own chat template, one at a time, as ArmoRM does."""

    model: LocalModel
    remote_code: bool = False
    """Run the Python code that the checkpoint brings along."""

    def scores(self, prompt: str, answers: Sequence[str]) -> list[float]:
        """One score an answer: the output `score` of the model (ArmoRM), else its only logit.

        Raises:
            ModelError: it cannot be loaded, or gives another number of outputs.
            ItemError: a score that is not finite.
        """
        model, tokenizer = _loaded(self.model, "AutoModelForSequenceClassification", self.remote_code)
        return [self._score(model, tokenizer, prompt, answer) for answer in answers]

    @torch.inference_mode()
    def _score(self, model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(
            chat, return_tensors="pt", return_dict=True, truncation=True, max_length=self.model.max_length
        )["input_ids"]
        output = model(ids.to(model.device))
        score = output.score if hasattr(output, "score") else output.logits
        if score.numel() != 1:
            raise ModelError(
                f"the reward model {self.model.id} gives {score.numel()} numbers where one score is needed"
            )
        return _finite([float(score)], self.model)[0]


@dataclass(frozen=True)
class ImageText:
    """CLIP: how well texts describe an image, as the cosine of their embeddings."""

    model: LocalModel

    @torch.inference_mode()
    def scores(self, image: Image.Image, texts: Sequence[str]) -> list[float]:
        """One cosine a text; longer texts than CLIP reads (77 tokens) are cut.

        Raises:
            ModelError: it cannot be loaded.
            ItemError: a cosine that is not finite.
        """
        model, processor = _loaded(self.model, "CLIPModel", False)
        inputs = processor(text=list(texts), images=image, return_tensors="pt", padding=True, truncation=True)
        found = model(**inputs.to(model.device))
        cosines: list[float] = (found.image_embeds @ found.text_embeds.T)[0].float().tolist()
        return _finite(cosines, self.model)


def _finite(scores: list[float], model: LocalModel) -> list[float]:
    """The scores; one that is no number would pass for a safe one."""
    if not all(map(math.isfinite, scores)):
        kind = "no number: a score is not finite"
        raise ItemError(kind, f"{kind}: {model.id} gives {scores} in {model.resolved_dtype}")
    return scores


@cache
def _loaded(spec: LocalModel, loader: str, remote_code: bool) -> tuple[Any, Any]:
    """Model in evaluation mode, and its tokenizer or processor."""
    reader = transformers.AutoProcessor if loader == "CLIPModel" else transformers.AutoTokenizer
    try:
        made = reader.from_pretrained(spec.id, revision=spec.revision)
        model = load_whole(
            getattr(transformers, loader),
            spec.id,
            unused=(".*",),  # position ids, say
            revision=spec.revision,
            dtype=getattr(torch, spec.resolved_dtype),
            trust_remote_code=remote_code,
        )
    except (OSError, ValueError, AttributeError, ImportError, RuntimeError, ModelError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"the scorer {spec.id} cannot be loaded: {said}") from error
    if loader != "CLIPModel" and not getattr(made, "chat_template", None):
        raise ConfigError(
            f"the reward model {spec.id} has no chat template, in which it would read an answer"
        )
    return model.to(spec.resolved_device).eval(), made
