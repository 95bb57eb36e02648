"""Which model, and how it is loaded: the model arguments that every command shares."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shiftdc_eval.core.api.endpoint import ANSWERS, ServedModel
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.provenance import NAMED

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
ENDPOINT_SETTINGS = ("base_url", "concurrency", "timeout", "tries", "patience", "backoff")
"""Model arguments that the client of a server knows under the same names."""
SERVER_SETTINGS = (*ENDPOINT_SETTINGS, "budget", "continues")
"""Model arguments that only `engine=server` knows."""
SERVER_CHOICES = tuple(name for name in SERVER_SETTINGS if name != "base_url")
"""Those of them that change no answer."""
LOCAL_SETTINGS = ("dtype", "device", "device_map", "attn_implementation", "trust_remote_code")
"""Model arguments of a model that is loaded here."""


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
    engine: Literal["auto", "transformers", "vllm", "server"] = "auto"
    """`vllm`: vLLM, with the edits made inside it; `transformers`: transformers' `generate`; `auto`: vllm where it is
    installed, on a GPU, for a family that was checked; else transformers. `server`: a model behind an OpenAI-compatible
    server, `base_url` away, which answers and can do nothing else."""
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
    base_url: str | None = None
    """`engine=server`: address of the server, up to `/v1`; the key stands in `SHIFTDC_SERVER_API_KEY`."""
    concurrency: int | None = Field(default=None, ge=1)
    """`engine=server`: most requests in flight at once (16)."""
    timeout: float | None = Field(default=None, ge=0.01, allow_inf_nan=False)
    """`engine=server`: seconds for one whole reply (120)."""
    tries: int | None = Field(default=None, ge=1)
    """`engine=server`: attempts at one request while it fails with transient errors (5)."""
    patience: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """`engine=server`: longest wait in seconds that a server may ask for (120)."""
    backoff: float | None = Field(default=None, ge=0.001, allow_inf_nan=False)
    """`engine=server`: seconds before the second attempt, doubled for each further one (1)."""
    budget: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """`engine=server`: USD that one run may spend; needs a known price."""
    continues: bool | None = None
    """`engine=server`: the server goes on with a message that is begun, where vLLM's parameters ask it to (false)."""

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
        given = [name for name in SERVER_SETTINGS if getattr(self, name) is not None]
        if given and self.engine != "server":
            raise ValueError(f"{', '.join(given)} belongs to engine=server, not to engine={self.engine}")
        if self.engine == "server":
            if not self.base_url:
                raise ValueError(
                    "engine=server needs base_url=, the address of the server, as https://api.openai.com/v1 or "
                    "http://localhost:8000/v1"
                )
            fields = ModelArguments.model_fields
            if local := [name for name in LOCAL_SETTINGS if getattr(self, name) != fields[name].default]:
                raise ValueError(
                    f"{', '.join(local)} belongs to a model that is loaded here, not behind a server"
                )
        if self.device_map is not None and self.device not in ("auto", "cuda"):
            raise ValueError(
                f"device={self.device} has no effect beside device_map={self.device_map}, which takes all devices; "
                "leave one of them out"
            )
        return self

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = value.strip().rstrip("/").removesuffix("/chat/completions")
        ServedModel("", value)  # its error does not show the address, which might hold a key
        return value

    @field_validator("pretrained", "revision")
    @classmethod
    def _no_address(cls, value: str | None) -> str | None:
        if value and "://" in value:  # it would be written down with the user name and password in it
            raise ValueError("an address is neither a hub id or folder nor a branch, tag or commit")
        return value


def served(given: Mapping[str, Any]) -> dict[str, Any]:
    """Model arguments in which a model behind a server may be named by `model`, as servers call it.

    Raises:
        ConfigError: a key stands among them, or two names.
    """
    found = dict(given)
    if "base_url" not in found and found.get("engine") != "server":
        return found
    for name in found:
        if name == "key" or NAMED.fullmatch(f"{name}=x"):
            raise ConfigError(
                f"model argument {name} is refused, because commands and files are written down; set the variable "
                f"{ANSWERS.variable}"
            )
    found.setdefault("engine", "server")
    if "model" in found:
        if "pretrained" in found:
            raise ConfigError("model= and pretrained= both name the model; leave one of them out")
        found["pretrained"] = found.pop("model")
    elif "pretrained" not in found:
        raise ConfigError("model argument model= is missing: the name by which the server knows the model")
    return found


class ModelSpec(ModelArguments):
    """Which model, and how to load it, written in Python: `ModelSpec("toy", device="cpu")`."""

    dtype: str = "auto"  # type: ignore[assignment]  # an unknown one is refused by `load_backbone`
    """Compute dtype; `auto`: float32 on a CPU, bfloat16 elsewhere."""

    def __init__(self, pretrained: str, **options: Any) -> None:
        super().__init__(pretrained=pretrained, **options)
