"""LLaVA shapes with random weights, made where they are to run, and prompts of an exact number of tokens."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from shiftdc_eval.backbones import Chat
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.defenses import Request

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden": 128, "layers": 8, "heads": 4, "mlp": 256, "vision": (64, 2, 2, 128), "side": 84},
    "tiny-next": {
        "hidden": 128,
        "layers": 8,
        "heads": 4,
        "mlp": 256,
        "vision": (64, 2, 2, 128),
        "side": 84,
        "picture": 168,
    },
    "small": {"hidden": 512, "layers": 8, "heads": 8, "mlp": 1376, "vision": (256, 4, 4, 1024), "side": 168},
    "llava-1.5-7b": {
        "hidden": 4096,
        "layers": 32,
        "heads": 32,
        "mlp": 11008,
        "vision": (1024, 24, 16, 4096),
        "side": 336,
    },
    "llava-1.5-13b": {
        "hidden": 5120,
        "layers": 40,
        "heads": 40,
        "mlp": 13824,
        "vision": (1024, 24, 16, 4096),
        "side": 336,
    },
    "llava-1.6-34b": {
        "hidden": 7168,
        "layers": 60,
        "heads": 56,
        "kv_heads": 8,
        "mlp": 20480,
        "vision": (1024, 24, 16, 4096),
        "side": 336,
        "picture": 672,
    },
}
"""Name -> sizes of the language model, of the vision tower (width, layers, heads, mlp), the tower's side, and that of a
picture that is cut into tiles (LLaVA-NeXT)."""
TILES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""LLaVA-NeXT's resolutions, in sides of the tower."""
VOCABULARY = 32_064
PATCH = 14
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, so that what was generated has as many tokens when it is asked about again."""
    words = [*SPECIAL, *(f"w{index}" for index in range(VOCABULARY - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("w", " w"), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=["<image>"],
    )


def random_llava(shape: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model (never ending an answer by itself) and processor."""
    size = SHAPES[shape]
    width, layers, heads, mlp = size["vision"]
    tokenizer = word_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=size["side"],
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size["hidden"],
        intermediate_size=size["mlp"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size.get("kv_heads", size["heads"]),
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    tiled = "picture" in size
    resolutions = [[size["side"] * high, size["side"] * wide] for high, wide in TILES]
    shared: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_seq_length": (size["side"] // PATCH) ** 2,
    }
    config = LlavaNextConfig(**shared, image_grid_pinpoints=resolutions) if tiled else LlavaConfig(**shared)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = (LlavaNextForConditionalGeneration if tiled else LlavaForConditionalGeneration)(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    # what must not be answered: tokens without a word of their own would be lost when the answer is asked about
    model.generation_config.suppress_tokens = list(range(len(SPECIAL)))
    side = size["side"]
    sizes: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    images = (
        LlavaNextImageProcessor(**sizes, image_grid_pinpoints=resolutions)
        if tiled
        else CLIPImageProcessor(**sizes)
    )
    processor = (LlavaNextProcessor if tiled else LlavaProcessor)(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return model, processor


def backbone_of(model: Any, processor: Any, shape: str) -> TransformersBackbone:
    """The model behind transformers' `generate`."""
    return TransformersBackbone(model, processor, name=f"random {shape}", revision="random")


def requests(count: int, side: int, text_tokens: int, *, phrase: str = "") -> list[Request]:
    """Requests with one picture each, all different, and so many text tokens, template included.

    Args:
        count: how many.
        side: width and height of the pictures.
        text_tokens: words of a request, and two for the template.
        phrase: what requests are made of; words of the one-word-a-token vocabulary when empty.
    """
    spoken = (phrase.split() * text_tokens)[: max(1, text_tokens - 2)]
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        small = torch.randint(0, 256, (12, 12, 3), generator=generator, dtype=torch.uint8)
        image = Image.fromarray(small.numpy()).resize((side, side))
        words = torch.randint(0, 30_000, (max(1, text_tokens - 2),), generator=generator).tolist()
        text = " ".join(spoken or (f"w{word}" for word in words))
        made.append(Request(Chat.ask(text, [image])))
    return made
