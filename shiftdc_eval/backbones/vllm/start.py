"""A model started inside vLLM, and compared with what transformers makes of the same prompts."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.parts import Parts
from shiftdc_eval.backbones.vllm.backbone import VllmBackbone
from shiftdc_eval.backbones.vllm.choice import CHECKED, generation_config
from shiftdc_eval.backbones.vllm.engine import IMAGES, ON_A_GPU, PREFILL_IN_PYTHON, Engine, installed
from shiftdc_eval.backbones.vllm.layout import for_vllm
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.core.model_spec import ModelArguments

logger = logging.getLogger(__name__)
PASSED = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "distributed_executor_backend",
    "gpu_memory_utilization",
    "max_model_len",
    "quantization",
    "enforce_eager",
)
"""Model arguments that vLLM knows under the same names."""
PREPROCESSING_THREADS = 4
"""Threads of torch in this process, which only preprocesses images: two processes with 32 each slowed one another on
two H200s of one host (LLaVA-1.5-7B's shape, 1.75 times one card's samples a second instead of 1.93)."""
PROBES = ((97, 61), (40, 150))
"""Width and height of the images of the self-check: neither square nor a multiple of a patch."""


def start(parts: Parts, spec: ModelArguments, **more: Any) -> VllmBackbone:
    """Start vLLM with a model.

    Args:
        parts: the model's configuration and processor.
        spec: how it is loaded.
        more: further arguments of `vllm.LLM`, for tests and benchmarks.

    Raises:
        ModelError: vLLM does not start, or makes other prompts of chats than the model's own processor.
    """
    cards = (spec.tensor_parallel_size or 1) * (spec.pipeline_parallel_size or 1)
    on_a_gpu = parts.device.startswith("cuda")
    if on_a_gpu:
        _own_cards(cards)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(min(PREPROCESSING_THREADS, torch.get_num_threads()))
    if parts.config.model_type not in CHECKED:
        logger.warning(
            "%s: the family %s was not checked inside vLLM", spec.pretrained, parts.config.model_type
        )
    with torch.device("meta"):
        model = parts.loader.from_config(parts.config)
    model.generation_config = generation_config(parts, spec)
    given = {name: value for name in PASSED if (value := getattr(spec, name)) is not None}
    vision = str(getattr(getattr(parts.config, "vision_config", None), "model_type", ""))
    engine = Engine(
        **{
            "model": for_vllm(parts.source, vision, parts.revision),
            "revision": spec.revision,
            "tokenizer_revision": spec.revision,
            "trust_remote_code": spec.trust_remote_code,
            "dtype": str(parts.dtype).removeprefix("torch."),
            "generation_config": "vllm",
            "limit_mm_per_prompt": {"image": IMAGES},
            "compilation_config": PREFILL_IN_PYTHON if on_a_gpu else {"mode": 0},
            **(ON_A_GPU if on_a_gpu else {"enforce_eager": True}),
            **given,
            **more,
        }
    )
    backbone = VllmBackbone(
        model,
        parts.processor,
        engine,
        version=installed() or "",
        dtype=parts.dtype,
        devices=[torch.device("cuda", at) for at in range(cards)] if on_a_gpu else [torch.device("cpu")],
        name=spec.pretrained,
        revision=parts.revision,
        note=parts.note,
        folder=parts.source if Path(parts.source).is_dir() else None,
    )
    try:
        check(backbone)
    except ModelError:
        engine.close()
        raise
    return backbone


def check(backbone: VllmBackbone) -> None:
    """Make sure that vLLM sees every decoder layer, and the token ids that the model's own processor makes.

    Raises:
        ModelError: it does not; names the first difference.
    """
    seen = sorted({layer for layers in backbone.vllm.worker_layers for layer in layers})
    if seen != list(range(len(backbone.layers))):
        raise ModelError(
            f"vLLM shows the decoder layers {seen} of {backbone.name}, which has {len(backbone.layers)}; "
            "use engine=transformers"
        )
    images = [Image.effect_noise(size, 64).convert("RGB") for size in PROBES]
    chats = [
        Chat.ask("What is shown here?", images[:1]),
        Chat.ask("\nHow many <image> are there? ", images[1:]),
        Chat.ask("Is it so?"),
    ]
    for chat in chats:
        (theirs,) = backbone.prompt_tokens([chat])
        encoded = backbone.features([chat])
        own = encoded.inputs["input_ids"][0].tolist()
        if list(theirs) != own:
            at = next((i for i, pair in enumerate(zip(theirs, own, strict=False)) if pair[0] != pair[1]), -1)
            raise ModelError(
                f"vLLM makes another prompt of a chat with {len(chat.images)} images than the processor of "
                f"{backbone.name} ({len(theirs)} tokens against {len(own)}, the first difference at {at}); "
                "use engine=transformers"
            )


def _own_cards(cards: int) -> None:
    """Under data parallelism give each process cards of its own; vLLM's processes are started with them."""
    rank, processes = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(at) for at in range(torch.cuda.device_count())]
    mine = visible[rank * cards : (rank + 1) * cards]
    if len(mine) < cards:
        raise ModelError(
            f"process {rank} of {processes} needs {cards} cards of its own, and there are {len(visible)}"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
