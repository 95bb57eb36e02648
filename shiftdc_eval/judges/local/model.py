"""Loading a judge model on this machine: which revision it is, where it runs, and how it is freed.

torch and transformers are imported only when a judge is asked for a verdict or its fingerprint.
"""

from __future__ import annotations

import functools
import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import PositiveInt

from shiftdc_eval.core.errors import JudgeError, ModelError
from shiftdc_eval.core.model_memory import room
from shiftdc_eval.core.weights import load_whole

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class LocalModel:
    """A judge model by hub id or folder, and how to run it."""

    id: str
    revision: str = "main"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: bfloat16 on an accelerator, float32 on the CPU."""
    device: str = "auto"
    batch_size: PositiveInt = 8
    max_length: PositiveInt = 4096
    """Prompt tokens. Longer prompts are cut: on the left for a causal judge, as HarmBench does."""

    @property
    def name(self) -> str:
        """Hub id, or the folder's own name: where it lies on this machine stays out of records."""
        return Path(self.id).name if Path(self.id).is_dir() else self.id

    @property
    def identity(self) -> str:
        """Hash of a folder's weights, configuration and code, or the hub id with its resolved commit.

        Raises:
            JudgeError: there is no such model here.
        """
        return _identity(self.id, self.revision)

    def require_known(self) -> None:
        """Refuse a model that is no folder, not in the hub's cache and not on the hub; without torch.

        Raises:
            JudgeError: there is no such model here.
        """
        from huggingface_hub import HfApi, try_to_load_from_cache

        if Path(self.id).is_dir():
            return
        try:
            if not isinstance(try_to_load_from_cache(self.id, "config.json", revision=self.revision), str):
                HfApi().model_info(self.id, revision=self.revision, timeout=20)
        except Exception as error:  # the hub client raises whatever its HTTP library does
            raise _cannot_load(self.id, self.revision, error) from error

    def settings(self) -> dict[str, object]:
        """The settings that can change a verdict, for fingerprints."""
        return {"model": self.identity, "dtype": self.resolved_dtype, "max_length": self.max_length}

    @property
    def resolved_device(self) -> str:
        """The device it runs on."""
        import torch

        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def resolved_dtype(self) -> str:
        """The dtype it runs in; part of its judges' fingerprints."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.resolved_device == "cpu" else "bfloat16"

    @contextmanager
    def loaded(
        self, auto_class: str, side: str | None = None, *, processor: bool = False
    ) -> Iterator[tuple[Any, Any]]:
        """Model in evaluation mode, and its tokenizer or processor; freed at the end.

        In a run, the evaluated model gives up its memory first (`room`).

        Args:
            auto_class: name of the transformers class, e.g. `AutoModelForCausalLM`.
            side: where the tokenizer pads and cuts; None leaves it as the checkpoint has it (encoders
                count positions from the left, padding included).
            processor: load the processor of a model that sees images in place of the tokenizer.

        Raises:
            JudgeError: it cannot be loaded, or the checkpoint lacks some of its weights.
        """
        import torch
        import transformers

        with room():
            _free(torch)
            yield from self._load(auto_class, side, processor, torch, transformers)

    def _load(
        self, auto_class: str, side: str | None, processor: bool, torch: Any, transformers: Any
    ) -> Iterator[tuple[Any, Any]]:
        try:
            sides = {"padding_side": side, "truncation_side": side} if side else {}
            reader = transformers.AutoProcessor if processor else transformers.AutoTokenizer
            made = reader.from_pretrained(self.id, revision=self.revision, **sides)
            model = load_whole(
                getattr(transformers, auto_class),
                self.id,
                unused=(".*",),  # a pooler that the classifier does not use, say
                revision=self.revision,
                dtype=getattr(torch, self.resolved_dtype),
            )
            model.to(self.resolved_device).eval()
        except (OSError, ValueError, AttributeError, ImportError, RuntimeError, ModelError) as error:
            raise _cannot_load(self.id, self.revision, error) from error
        tokenizer = made.tokenizer if processor else made
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        try:
            yield model, made
        finally:
            model.to("meta")  # whoever still holds it: its weights are gone
            _free(torch)

    def room(self, model: Any, tokenizer: Any, new_tokens: int) -> int:
        """Prompt tokens that fit: the smallest of ours, the tokenizer's and the model's limits."""
        text = model.config.get_text_config()
        positions = getattr(text, "max_position_embeddings", None) or self.max_length
        return max(1, min(self.max_length, int(tokenizer.model_max_length), positions - new_tokens))

    def in_batches(self, inputs: Sequence[S], run: Callable[[Sequence[S]], list[T]]) -> Iterator[list[T]]:
        """Run over the inputs batch by batch; a batch that does not fit into memory is halved."""
        import torch

        size, start = self.batch_size, 0
        while start < len(inputs):
            try:
                results = run(inputs[start : start + size])
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise JudgeError(
                        f"judge model {self.id}: one prompt does not fit into the memory of "
                        f"{self.resolved_device}; lower max_length or choose another device"
                    ) from error
                size = max(1, size // 2)
                torch.cuda.empty_cache()
                continue
            yield results
            start += size


def _free(torch: Any) -> None:
    """Give back accelerator memory that no tensor uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@functools.cache
def _identity(model: str, revision: str) -> str:
    folder = Path(model)
    if folder.is_dir():
        digest = hashlib.sha256()
        for path in sorted(folder.iterdir()):
            if path.suffix in (".json", ".safetensors", ".jinja", ".model", ".bin", ".txt", ".py"):
                digest.update(path.name.encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise _cannot_load(model, revision, error) from error
    return f"{model}@{getattr(config, '_commit_hash', None) or revision}"


def _cannot_load(model: str, revision: str, error: Exception) -> JudgeError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return JudgeError(
        f"judge model {model!r} (revision {revision}) cannot be loaded: {reason}; "
        "download it first or name the folder that holds it"
    )
