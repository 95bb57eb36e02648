"""Builds the untrained small research model: SmolLM2-135M as the language model of a LLaVA, with a new vision tower."""

from __future__ import annotations

import re
from typing import Any

SIZE = 256
"""Pixels of an image's side; images are squashed to the square."""
PATCH = 16
IMAGE_TOKENS = (SIZE // PATCH) ** 2
IMAGE_TOKEN = "<image>"  # noqa: S105
UNUSED_TOKEN = "<file_sep>"  # noqa: S105
"""A token of the base that chats never use; it becomes the image token, so that the vocabulary stays as it is."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a pixel's lightness (ITU-R BT.601)."""
DECODER_LINEAR = re.compile(
    r"^model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)$"
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\n' -}}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}"
    "{{- part['text'] -}}{%- if not loop.last -%}{{- ' ' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""The base's ChatML with the image before the words; a chat without a system message has none."""


def build_tokenizer(base: Any) -> Any:
    """The base's tokenizer with its unused token renamed to the image token; padding on the left."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(base.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        if token["content"] == UNUSED_TOKEN:
            token["content"] = IMAGE_TOKEN
    state["model"]["vocab"] = {
        (IMAGE_TOKEN if token == UNUSED_TOKEN else token): number
        for token, number in state["model"]["vocab"].items()
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<|im_start|>",  # noqa: S106
        eos_token="<|im_end|>",  # noqa: S106
        unk_token="<|endoftext|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        padding_side="left",
        model_max_length=8192,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
    )


def build_processor(tokenizer: Any) -> Any:
    """The LLaVA processor: images squashed to 256 px, 256 image tokens each, our chat template."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        do_center_crop=False,
        size={"height": SIZE, "width": SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(text: Any, tokenizer: Any, *, width: int = 384, layers: int = 6) -> Any:
    """The configuration of the whole model around the base's `LlamaConfig`.

    Args:
        text: the base's configuration.
        tokenizer: from `build_tokenizer`.
        width: hidden size of the vision tower.
        layers: its depth.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    known = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_parameters")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["pad_token_id"] = tokenizer.pad_token_id
    language = LlamaConfig(
        **{name: getattr(text, name) for name in (*known, *more)}, tie_word_embeddings=True, **ids
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=width,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
        **ids,
    )


def linears(model: Any) -> dict[str, Any]:
    """Module name -> every linear layer of the decoder, the places of the low-rank difference."""
    return {name: module for name, module in model.named_modules() if DECODER_LINEAR.match(name)}
