"""The safety direction as data: vectors with everything one must know before using them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shiftdc_eval.core.errors import DirectionError
from shiftdc_eval.core.files import replaced

FORMAT = "shiftdc-direction"
VERSION = 1
FIELDS = (
    "model",
    "revision",
    "template_sha256",
    "contrast_sha256",
    "samples_safe",
    "samples_unsafe",
    "created_by",
    "sha256",
)
"""What the metadata of a file hold besides the format."""


def fit_direction(safe: Tensor, unsafe: Tensor) -> Tensor:
    """Mean activation of safe minus mean activation of unsafe text-only inputs (Eq. 4).

    Args:
        safe: `[n, layers, hidden]`.
        unsafe: `[m, layers, hidden]`.

    Returns:
        `[layers, hidden]`, float32.

    Raises:
        DirectionError: shapes that do not fit, or a side without samples.
    """
    if safe.ndim != 3 or unsafe.ndim != 3 or safe.shape[1:] != unsafe.shape[1:]:
        raise DirectionError(
            f"activations must be [n, layers, hidden] on both sides, got {tuple(safe.shape)} safe "
            f"and {tuple(unsafe.shape)} unsafe"
        )
    if not len(safe) or not len(unsafe):
        raise DirectionError(
            f"a direction needs samples of both sides, got {len(safe)} safe, {len(unsafe)} unsafe"
        )
    for side, activations in (("safe", safe), ("unsafe", unsafe)):
        if not torch.isfinite(activations).all():
            raise DirectionError(
                f"the {side} activations hold NaN or infinity; load the model in another dtype"
            )
    return safe.double().mean(0).sub(unsafe.double().mean(0)).float()


def _refused(path: Path, why: str) -> DirectionError:
    return DirectionError(
        f"{path} is not a safety direction that can be used: {why}; fit it again with `shiftdc-eval direction fit`, or "
        "delete it where it is a cached one"
    )


@dataclass(frozen=True, repr=False)
class SafetyDirection:
    """A safety direction and where it came from."""

    vectors: Tensor
    """`[layers, hidden]`, float32: safe minus unsafe at the output of every decoder layer."""
    model: str
    """Model id or folder name it was fitted on."""
    revision: str
    """Revision of the weights."""
    template_sha256: str
    """Hash of the chat template the texts were put in."""
    contrast_sha256: str
    """Hash of the contrast set."""
    samples_safe: int
    """Number of safe texts."""
    samples_unsafe: int
    """Number of unsafe texts."""
    created_by: str = ""
    """Command or function that fitted it."""

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return self.vectors.shape[0]

    @property
    def hidden(self) -> int:
        """Hidden size."""
        return self.vectors.shape[1]

    @property
    def sha256(self) -> str:
        """Content hash of vectors and metadata, without the names of model and maker: weights are known by revision."""
        digest = hashlib.sha256(json.dumps(self._metadata(), sort_keys=True).encode())
        digest.update(self.vectors.contiguous().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return (
            f"SafetyDirection({self.layers} layers x {self.hidden}, {self.samples_safe} safe and "
            f"{self.samples_unsafe} unsafe texts, {self.model}@{self.revision[:12]}, sha256 {self.sha256[:12]})"
        )

    def _metadata(self) -> dict[str, str]:
        fields = [
            f.name for f in dataclasses.fields(self) if f.name not in ("vectors", "model", "created_by")
        ]
        return {name: str(getattr(self, name)) for name in fields}

    def random_like(self, seed: int) -> SafetyDirection:
        """A control: random vectors with the same norm at every layer."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.vectors.shape, generator=generator)
        scale = self.vectors.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        return dataclasses.replace(
            self, vectors=noise * scale, contrast_sha256=f"random-{seed}", created_by=f"random_like({seed})"
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with metadata."""
        path = Path(path)
        metadata = {
            **self._metadata(),
            "model": self.model,
            "created_by": self.created_by,
            "format": f"{FORMAT}-{VERSION}",
            "sha256": self.sha256,
        }
        with replaced(path) as temporary:
            save_file({"vectors": self.vectors.contiguous().float().cpu()}, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> SafetyDirection:
        """Read a file written by `save`.

        Raises:
            DirectionError: no such file, not a direction, or content that does not match its hash.
        """
        path = Path(path)
        if not path.is_file():
            raise DirectionError(f"no safety direction at {path}: make one with `shiftdc-eval direction fit`")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                vectors = file.get_tensor("vectors") if "vectors" in file.keys() else None  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _refused(path, f"it is damaged ({error})") from error
        kind, _, version = metadata.get("format", "").rpartition("-")
        if kind != FORMAT or not version.isdecimal():
            raise _refused(path, f"its format is {metadata.get('format')!r}, not {FORMAT}-{VERSION}")
        if int(version) > VERSION:
            raise DirectionError(
                f"{path} was written by a newer version of shiftdc-eval (format {version}, this one reads {VERSION}): "
                "upgrade, or fit one with this version"
            )
        missing = [name for name in FIELDS if name not in metadata] + ["vectors"] * (vectors is None)
        if missing or vectors is None:
            raise _refused(path, f"it has no {', '.join(missing)}")
        counts = [metadata[name] for name in ("samples_safe", "samples_unsafe")]
        if not all(count.isdecimal() for count in counts):
            raise _refused(path, f"its numbers of texts are {' and '.join(counts)}")
        if vectors.ndim != 2 or vectors.dtype != torch.float32 or not torch.isfinite(vectors).all():
            raise _refused(path, "its vectors are no finite float32 matrix [layers, hidden]")
        texts = {
            name: metadata[name] for name in FIELDS if not name.startswith("samples_") and name != "sha256"
        }
        direction = cls(vectors, samples_safe=int(counts[0]), samples_unsafe=int(counts[1]), **texts)
        if direction.sha256 != metadata["sha256"]:
            raise _refused(path, "it does not match its own hash: it was changed after it was written")
        return direction

    def check_fits(
        self, *, layers: int, hidden: int, model: str, revision: str, template_sha256: str, source: str
    ) -> None:
        """Refuse a direction made for another model.

        Raises:
            DirectionError: says what differs.
        """
        pairs = {
            "decoder layers": (self.layers, layers),
            "hidden size": (self.hidden, hidden),
            "weights": (f"{self.model}@{self.revision[:12]}", f"{model}@{revision[:12]}"),
            "chat template": (self.template_sha256[:12], template_sha256[:12]),
        }
        differing = [
            f"{what} {mine} (here {theirs})" for what, (mine, theirs) in pairs.items() if mine != theirs
        ]
        if differing:
            raise DirectionError(
                f"the safety direction {source} was made for "
                + ", ".join(differing)
                + "; fit one for this model "
                "with `shiftdc-eval direction fit`, or leave out `direction=` to have it fitted"
            )
