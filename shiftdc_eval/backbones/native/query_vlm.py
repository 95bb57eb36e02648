"""A vision-language model whose vision encoder gives a fixed number of vectors per image.

Everything but the vision side is transformers' LLaVA: image vectors take the place of image tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, LlavaForConditionalGeneration, LlavaModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaPreTrainedModel


class QueryModel(LlavaModel):  # type: ignore[misc]
    """Decoder with a vision side of another kind than LLaVA's."""

    vision_class: type[nn.Module]
    """Made from the whole configuration; `[images, 3, side, side]` to `[images, queries, hidden]`."""

    def __init__(self, config: Any) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.vision_tower = self.vision_class(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Image vectors in the language model's space, one `[queries, hidden]` an image."""
        dtype = next(self.vision_tower.parameters()).dtype
        features: Tensor = self.vision_tower(pixel_values.to(dtype))
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=list(features))


class QueryForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """The decoder with its output layer."""

    model_class: type[QueryModel]

    def __init__(self, config: Any) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = self.model_class(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()
