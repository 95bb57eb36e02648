"""MiniGPT-4 (Vision-CAIR/MiniGPT-4, arXiv 2304.10592): BLIP-2's vision side, one linear layer, Vicuna.

EVA ViT-g and the Q-Former are transformers' BLIP-2 modules; the linear layer takes the 32 query outputs to
the language model's width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    LlavaConfig,
    PreTrainedConfig,
)
from transformers.configuration_utils import SubConfigSpec

from shiftdc_eval.backbones.native.conversion import CONVERSION
from shiftdc_eval.backbones.native.query_vlm import QueryForConditionalGeneration, QueryModel

LN_VISION_EPS = 1e-5


class MiniGPT4Config(LlavaConfig):  # type: ignore[misc]
    """Sizes of the vision tower, the Q-Former and the language model."""

    model_type = "shiftdc_minigpt4"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "vision_config": SubConfigSpec(config_class=Blip2VisionConfig),
        "qformer_config": SubConfigSpec(config_class=Blip2QFormerConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    qformer_config: dict | PreTrainedConfig | None = None  # type: ignore[type-arg]
    num_query_tokens: int = 32
    conversion: int = CONVERSION


class MiniGPT4Vision(nn.Module):
    """Vision tower, Q-Former and the linear layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vision_model = Blip2VisionModel(config.vision_config)
        # the authors' `ln_vision` has torch's default; transformers gives it the blocks' 1e-6
        self.vision_model.post_layernorm.eps = LN_VISION_EPS
        self.query_tokens = nn.Parameter(
            torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size)
        )
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.llama_proj = nn.Linear(config.qformer_config.hidden_size, config.text_config.hidden_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[images, 3, side, side]` to `[images, queries, hidden]`."""
        seen = self.vision_model(pixel_values=pixel_values).last_hidden_state
        asked = self.qformer(
            query_embeds=self.query_tokens.expand(len(seen), -1, -1), encoder_hidden_states=seen
        ).last_hidden_state
        projected: Tensor = self.llama_proj(asked)
        return projected


class MiniGPT4Model(QueryModel):
    """Decoder with BLIP-2's vision side."""

    vision_class = MiniGPT4Vision


class MiniGPT4ForConditionalGeneration(QueryForConditionalGeneration):
    """MiniGPT-4."""

    config_class = MiniGPT4Config
    model_class = MiniGPT4Model
