"""Which model, and how it is loaded: the model arguments that every command shares."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

VLLM_SETTINGS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel",
    "distributed_executor_backend",
    "gpu_memory_utilization",
    "max_model_len",
    "quantization",
    "enforce_eager",
)
"""Model arguments that only `engine=vllm` knows."""


class ModelArguments(BaseModel):
    """Which model, and how to load it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrained: str
    """Hub id, local folder, or the name of a bundled model (`toy`, `smol`)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype; `auto`: float32 on a CPU, bfloat16 elsewhere."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto`: a GPU where there is one."""
    device_map: str | None = None
    """`auto` shards one large model over the devices."""
    attn_implementation: str | None = None
    """`sdpa`, `eager`, `flash_attention_2`; the model's default when None."""
    trust_remote_code: bool = False
    """Run code that comes with the model; only when the user says so for this model."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """`vllm`: vLLM, with the edits made inside it; `transformers`: transformers' `generate`; `auto`: vllm where it is
    installed, on a GPU, for a family that was checked; else transformers."""
    tensor_parallel_size: int | None = Field(default=None, ge=1)
    """`engine=vllm`: cards over which each layer is spread."""
    pipeline_parallel_size: int | None = Field(default=None, ge=1)
    """`engine=vllm`: stages into which the layers are cut."""
    data_parallel: int | None = Field(default=None, ge=1)
    """`engine=vllm`: engines side by side, one a process of `accelerate launch --num_processes N`."""
    distributed_executor_backend: Literal["mp", "ray"] | None = None
    """`engine=vllm`: processes of this machine (`mp`), or of several (`ray`)."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """`engine=vllm`: share of each card's memory that vLLM takes."""
    max_model_len: int | None = Field(default=None, ge=1)
    """`engine=vllm`: tokens of a prompt with its answer, at most; the model's own limit when None."""
    quantization: str | None = None
    """`engine=vllm`: how the weights are quantised (`fp8`, `awq` ...); as the checkpoint says when None."""
    enforce_eager: bool | None = None
    """`engine=vllm`: no CUDA graphs: slower answers, faster start."""

    @field_validator("engine", mode="before")
    @classmethod
    def _former_engine(cls, value: object) -> object:
        if value == "fast":
            raise ValueError(
                "engine=fast is gone; use engine=vllm on a GPU, engine=transformers elsewhere, or auto"
            )
        if value == "plain":
            warnings.warn("engine=plain is called engine=transformers now", FutureWarning, stacklevel=2)
            return "transformers"
        return value

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        given = [name for name in VLLM_SETTINGS if getattr(self, name) is not None]
        if given and self.engine != "vllm":
            raise ValueError(f"{', '.join(given)} belongs to engine=vllm, not to engine={self.engine}")
        if self.device_map is not None and self.device not in ("auto", "cuda"):
            raise ValueError(
                f"device={self.device} has no effect beside device_map={self.device_map}, which takes all devices; "
                "leave one of them out"
            )
        return self

    @field_validator("pretrained", "revision")
    @classmethod
    def _no_address(cls, value: str | None) -> str | None:
        if value and "://" in value:  # it would be written down with the user name and password in it
            raise ValueError("an address is neither a hub id or folder nor a branch, tag or commit")
        return value


class ModelSpec(ModelArguments):
    """Which model, and how to load it, written in Python: `ModelSpec("toy", device="cpu")`."""

    dtype: str = "auto"  # type: ignore[assignment]  # an unknown one is refused by `load_backbone`
    """Compute dtype; `auto`: float32 on a CPU, bfloat16 elsewhere."""

    def __init__(self, pretrained: str, **options: Any) -> None:
        super().__init__(pretrained=pretrained, **options)
