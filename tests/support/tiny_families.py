"""One tiny random-weight model with a real processor for every supported family, built without a download.

Sizes are tiny; config classes, processors, image tokens and chat templates are the families' own. Templates
are written from the published prompt formats and cut to what a plain chat needs (no tools, no videos).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tiny_models import tiny_tokenizer

from shiftdc_eval.backbones.native.image_processor import SquareImageProcessor
from shiftdc_eval.backbones.native.minigpt4 import MiniGPT4Config, MiniGPT4ForConditionalGeneration
from shiftdc_eval.backbones.native.qwen_vl import QwenVLConfig, QwenVLForConditionalGeneration

LAYERS = 4
HIDDEN = 32
PINPOINTS = [[28, 56], [56, 28], [56, 56]]
HEAD = 8
"""Width of an attention head of the decoder; `larger_heads` changes it while models are made."""
TEXT = {
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

IMAGES_FIRST = (
    "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
)
TEXTS = "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"


def in_order(image: str) -> str:
    """Parts of a turn in the order they came, `image` standing for each image."""
    return (
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '" + image + "' }}"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    )


def turns(before: str, body: str, after: str, prompt: str, first: str = "") -> str:
    """A template of one loop over the turns; the pieces are Jinja."""
    return (
        first
        + "{% for m in messages %}"
        + before
        + body
        + after
        + "{% endfor %}{% if add_generation_prompt %}{{ '"
        + prompt
        + "' }}{% endif %}"
    )


CHATML = "{{ '<|im_start|>' + m['role'] + '\n' }}"
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VICUNA = turns(
    "{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}",
    IMAGES_FIRST,
    "{{ ' ' }}",
    "ASSISTANT:",
)
TEMPLATES = {
    "vicuna": VICUNA,
    "mistral_llava": turns(
        "{% if m['role'] == 'user' %}{{ '[INST] ' }}{% endif %}",
        IMAGES_FIRST,
        "{% if m['role'] == 'user' %}{{ ' [/INST]' }}{% endif %}",
        "",
    ),
    "chatml_34b": turns(CHATML, IMAGES_FIRST, "{{ '<|im_end|>' }}", "<|im_start|>assistant\n"),
    "qwen2_vl": turns(
        "{% if loop.first and m['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + CHATML,
        in_order(QWEN_IMAGE),
        "{{ '<|im_end|>\n' }}",
        "<|im_start|>assistant\n",
    ),
    "qwen3_vl": turns(CHATML, in_order(QWEN_IMAGE), "{{ '<|im_end|>\n' }}", "<|im_start|>assistant\n"),
    "internvl": turns(CHATML, in_order("<IMG_CONTEXT>\n"), "{{ '<|im_end|>\n' }}", "<|im_start|>assistant\n"),
    "llava_onevision": turns(
        "{{ '<|im_start|>' + m['role'] + ' ' }}",
        IMAGES_FIRST,
        "{{ '<|im_end|>' }}",
        "<|im_start|>assistant\n",
    ),
    "gemma3": (
        "{{ bos_token }}{% set system = messages[0]['content'][0]['text'] + '\n\n' "
        "if messages[0]['role'] == 'system' else '' %}"
        "{% for m in messages if m['role'] != 'system' %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
        "{% if loop.first %}{{ system }}{% endif %}"
        + in_order("<start_of_image>")
        + "{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "mllama": turns(
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}",
        in_order("<|image|>"),
        "{{ '<|eot_id|>' }}",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        first="{{ bos_token }}",
    ),
    "mistral3": turns(
        "",
        "{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' }}" + TEXTS + "{{ '[/SYSTEM_PROMPT]' }}"
        "{% elif m['role'] == 'user' %}{{ '[INST]' }}" + in_order("[IMG]") + "{{ '[/INST]' }}"
        "{% else %}" + TEXTS + "{{ eos_token }}{% endif %}",
        "",
        "",
        first="{{ bos_token }}",
    ),
    "pixtral": (
        "{{ bos_token }}{% set system = messages[0]['content'][0]['text'] + '\n\n' "
        "if messages[0]['role'] == 'system' else '' %}"
        "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}"
        "{{ '[INST]' }}{% if loop.last %}{{ system }}{% endif %}" + in_order("[IMG]") + "{{ '[/INST]' }}"
        "{% else %}" + TEXTS + "{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "idefics3": turns(
        "{{ m['role'] | capitalize }}"
        "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}",
        in_order("<image>"),
        "{{ '<end_of_utterance>\n' }}",
        "Assistant:",
        first="{{ '<|begin_of_text|>' }}",
    ),
    "phi4": turns("{{ '<|' + m['role'] + '|>' }}", in_order("<|image|>"), "{{ '<|end|>' }}", "<|assistant|>"),
}
TEMPLATES["smolvlm"] = TEMPLATES["idefics3"].replace("<|begin_of_text|>", "<|im_start|>")

Built = tuple[Any, Any]


@dataclass(frozen=True)
class Family:
    """One family as the contract test sees it."""

    build: Callable[[], Built]
    """Makes the random model and its processor."""
    prompt: str | None
    """What the template renders for one image and the text "hello"; None where there is no template."""
    image_token: str
    """The token that holds an image's place in the encoded prompt."""
    features: Callable[[Any, dict[str, Any]], int] | None = None
    """Image tokens an encoded one-image prompt must hold, from the model and the other inputs."""
    package: str | None = None
    """Package that its processor needs beyond the package's own requirements."""


def common(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """Text settings that depend on the tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sized = {"hidden_size": width(), "vocab_size": len(tokenizer), "max_position_embeddings": 4096}
    return {
        **TEXT,
        **sized,
        **ids,
        **{name: value * HEAD // 8 if name in OF_A_HEAD else value for name, value in more.items()},
    }


OF_A_HEAD = ("head_dim", "query_pre_attn_scalar")


def width() -> int:
    """Hidden size of the decoder."""
    return HIDDEN * HEAD // 8


@contextmanager
def larger_heads(head: int) -> Iterator[None]:
    """Make models with wider heads meanwhile: vLLM on a CPU takes multiples of 32 alone."""
    global HEAD
    before, HEAD = HEAD, head
    try:
        yield
    finally:
        HEAD = before


def clip(size: int = 28) -> Any:
    return hf.CLIPVisionConfig(**VISION, image_size=size, patch_size=14, initializer_range=0.3)


def siglip(size: int = 28) -> Any:
    return hf.SiglipVisionConfig(**VISION, image_size=size, patch_size=14, vision_use_head=False)


def token(tokenizer: Any, text: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(text))


def square(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


def llava() -> Built:
    t = tiny_tokenizer(bos=True)
    config = hf.LlavaConfig(
        vision_config=clip(), text_config=hf.LlamaConfig(**common(t)), image_token_index=token(t, "<image>")
    )
    processor = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=square(28)),
        tokenizer=t,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES["vicuna"],
    )
    return hf.LlavaForConditionalGeneration(config), processor


def llava_next(template: str, text: Callable[..., Any] = hf.LlamaConfig) -> Callable[[], Built]:
    def build() -> Built:
        t = tiny_tokenizer(("<image>", "<|im_start|>", "<|im_end|>"), bos=True)
        config = hf.LlavaNextConfig(
            vision_config=clip(),
            text_config=text(**common(t)),
            image_token_index=token(t, "<image>"),
            image_grid_pinpoints=PINPOINTS,
        )
        processor = hf.LlavaNextProcessor(
            image_processor=hf.LlavaNextImageProcessor(
                size={"shortest_edge": 28}, crop_size=square(28), image_grid_pinpoints=PINPOINTS
            ),
            tokenizer=t,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=TEMPLATES[template],
        )
        return hf.LlavaNextForConditionalGeneration(config), processor

    return build


QWEN_SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip


def qwen_ids(t: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: token(t, text) for name, text in names.items()}


def qwen_parts(t: Any, patch: int) -> dict[str, Any]:
    unit = 2 * patch
    size = {"shortest_edge": unit * unit, "longest_edge": 4 * unit * unit}
    return {
        "image_processor": hf.Qwen2VLImageProcessor(patch_size=patch, merge_size=2, size=size),
        "tokenizer": t,
    }


def mrope(*sections: int, **more: Any) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [one * HEAD // 8 for one in sections],
        **more,
    }


def qwen2_vl() -> Built:
    t = tiny_tokenizer(QWEN_SPECIAL)
    config = hf.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": width(), "num_heads": 2, "mlp_ratio": 2},
        text_config=common(t, rope_parameters=mrope(1, 1, 2)),
        **qwen_ids(t),
    )
    processor = hf.Qwen2VLProcessor(
        **qwen_parts(t, 14),
        video_processor=hf.Qwen2VLVideoProcessor(),
        chat_template=TEMPLATES["qwen2_vl"],
    )
    return hf.Qwen2VLForConditionalGeneration(config), processor


def qwen2_5_vl() -> Built:
    t = tiny_tokenizer(QWEN_SPECIAL)
    config = hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "out_hidden_size": width(),
            "intermediate_size": 32,
            "num_heads": 2,
            "window_size": 28,
            "fullatt_block_indexes": [1],
        },
        text_config=common(t, rope_parameters=mrope(1, 1, 2)),
        **qwen_ids(t),
    )
    processor = hf.Qwen2_5_VLProcessor(
        **qwen_parts(t, 14),
        video_processor=hf.Qwen2VLVideoProcessor(),
        chat_template=TEMPLATES["qwen2_vl"],
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> Built:
    t = tiny_tokenizer(QWEN_SPECIAL)
    config = hf.Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "out_hidden_size": width(),
            "intermediate_size": 32,
            "num_heads": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config=common(t, head_dim=8, rope_parameters=mrope(2, 1, 1, mrope_interleaved=True)),
        **qwen_ids(t),
    )
    processor = hf.Qwen3VLProcessor(
        **qwen_parts(t, 16),
        video_processor=hf.Qwen3VLVideoProcessor(),
        chat_template=TEMPLATES["qwen3_vl"],
    )
    return hf.Qwen3VLForConditionalGeneration(config), processor


def internvl(text: Callable[..., Any], **more: Any) -> Callable[[], Built]:
    def build() -> Built:
        named = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
        t = tiny_tokenizer(("<|im_start|>", "<|im_end|>"), named=named)
        config = hf.InternVLConfig(
            vision_config=hf.InternVLVisionConfig(**VISION, image_size=[56, 56], patch_size=[14, 14]),
            text_config=text(**common(t, **more)),
            image_token_id=token(t, "<IMG_CONTEXT>"),
            image_seq_length=4,
            tie_word_embeddings=False,
        )
        processor = hf.InternVLProcessor(
            image_processor=hf.GotOcr2ImageProcessor(size=square(56), crop_to_patches=True, max_patches=2),
            tokenizer=t,
            video_processor=hf.InternVLVideoProcessor(),
            image_seq_length=4,
            chat_template=TEMPLATES["internvl"],
        )
        return hf.InternVLForConditionalGeneration(config), processor

    return build


def llava_onevision() -> Built:
    t = tiny_tokenizer(("<image>", "<video>", "<|im_start|>", "<|im_end|>"))
    config = hf.LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=hf.Qwen2Config(**common(t)),
        image_token_index=token(t, "<image>"),
        video_token_index=token(t, "<video>"),
        image_grid_pinpoints=PINPOINTS,
    )
    processor = hf.LlavaOnevisionProcessor(
        image_processor=hf.LlavaOnevisionImageProcessor(size=square(28), image_grid_pinpoints=PINPOINTS),
        tokenizer=t,
        video_processor=hf.LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATES["llava_onevision"],
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def gemma3() -> Built:
    named = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    t = tiny_tokenizer(("<start_of_turn>", "<end_of_turn>"), named=named, bos=True)
    t.add_tokens(["\n" * count for count in range(1, 5)])  # as published; vLLM looks them up
    text = hf.Gemma3TextConfig(
        **common(t, head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=siglip(56),
        mm_tokens_per_image=4,
        boi_token_index=token(t, "<start_of_image>"),
        eoi_token_index=token(t, "<end_of_image>"),
        image_token_index=token(t, "<image_soft_token>"),
    )
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size=square(56)),
        tokenizer=t,
        image_seq_length=4,
        chat_template=TEMPLATES["gemma3"],
    )
    return hf.Gemma3ForConditionalGeneration(config), processor


def mllama() -> Built:
    special = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>")
    t = tiny_tokenizer(special, bos=True)
    text = hf.MllamaTextConfig(
        **common(t, vocab_size=len(t) - 1),  # the image token lies behind the output vocabulary, as published
        cross_attention_layers=[1, 3],
    )
    vision = hf.MllamaVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        image_size=28,
        patch_size=14,
        intermediate_layers_indices=[0, 1],
        vision_output_dim=48,
    )
    config = hf.MllamaConfig(vision_config=vision, text_config=text, image_token_index=token(t, "<|image|>"))
    model = hf.MllamaForConditionalGeneration(config)
    for index in text.cross_attention_layers:  # the gates start closed, which would hide the image
        layer = model.get_decoder().layers[index]
        torch.nn.init.constant_(layer.cross_attn_attn_gate, 0.7)
        torch.nn.init.constant_(layer.cross_attn_mlp_gate, 0.7)
    processor = hf.MllamaProcessor(
        image_processor=hf.MllamaImageProcessor(size=square(28), max_image_tiles=4),
        tokenizer=t,
        chat_template=TEMPLATES["mllama"],
    )
    return model, processor


MISTRAL_SPECIAL = (
    "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]",
)  # fmt: skip


def pixtral_processor(t: Any, template: str, merge: int) -> Any:
    return hf.PixtralProcessor(
        image_processor=hf.PixtralImageProcessor(size={"longest_edge": 56}, patch_size=square(14)),
        tokenizer=t,
        patch_size=14,
        spatial_merge_size=merge,
        chat_template=TEMPLATES[template],
    )


def mistral3() -> Built:
    t = tiny_tokenizer(MISTRAL_SPECIAL, bos=True)
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**VISION, image_size=56, patch_size=14, head_dim=8),
        text_config=hf.MistralConfig(**common(t, head_dim=8)),
        image_token_index=token(t, "[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return hf.Mistral3ForConditionalGeneration(config), pixtral_processor(t, "mistral3", 2)


def pixtral() -> Built:
    t = tiny_tokenizer(MISTRAL_SPECIAL, bos=True)
    config = hf.LlavaConfig(
        vision_config=hf.PixtralVisionConfig(**VISION, image_size=56, patch_size=14, head_dim=8),
        text_config=hf.MistralConfig(**common(t, head_dim=8)),
        image_token_index=token(t, "[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return hf.LlavaForConditionalGeneration(config), pixtral_processor(t, "pixtral", 1)


IDEFICS_SPECIAL = (
    "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|begin_of_text|>",
    "<|im_start|>", *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)),
)  # fmt: skip


def idefics3() -> Built:
    t = tiny_tokenizer(IDEFICS_SPECIAL)
    config = hf.Idefics3Config(
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        text_config=hf.LlamaConfig(**common(t)),
        image_token_id=token(t, "<image>"),
        scale_factor=2,
    )
    processor = hf.Idefics3Processor(
        image_processor=hf.Idefics3ImageProcessor(
            size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
        ),
        tokenizer=t,
        image_seq_len=4,
        chat_template=TEMPLATES["idefics3"],
    )
    return hf.Idefics3ForConditionalGeneration(config), processor


def smolvlm() -> Built:
    t = tiny_tokenizer(IDEFICS_SPECIAL)
    config = hf.SmolVLMConfig(
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        text_config=hf.LlamaConfig(**common(t)),
        image_token_id=token(t, "<image>"),
        scale_factor=2,
    )
    processor = hf.SmolVLMProcessor(
        image_processor=hf.SmolVLMImageProcessor(
            size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
        ),
        tokenizer=t,
        video_processor=hf.SmolVLMVideoProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, num_frames=2, fps=1
        ),
        image_seq_len=4,
        chat_template=TEMPLATES["smolvlm"],
    )
    return hf.SmolVLMForConditionalGeneration(config), processor


def paligemma2() -> Built:
    t = tiny_tokenizer(("<image>",), bos=True)
    t.add_tokens([f"<loc{i:04}>" for i in range(1024)] + [f"<seg{i:03}>" for i in range(128)])
    vision = siglip(28)
    vision.projection_dim = width()
    text = hf.Gemma2Config(
        **common(t, head_dim=8, query_pre_attn_scalar=8, sliding_window=4096),
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    config = hf.PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=token(t, "<image>"),
        projection_dim=width(),
        hidden_size=width(),
    )
    image_processor = hf.SiglipImageProcessor(size=square(28))
    image_processor.image_seq_length = 4
    processor = hf.PaliGemmaProcessor(image_processor=image_processor, tokenizer=t)
    return hf.PaliGemmaForConditionalGeneration(config), processor


def phi4_multimodal() -> Built:
    named = {"image_token": "<|image|>", "audio_token": "<|audio|>"}
    t = tiny_tokenizer(("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), named=named)
    config = hf.Phi4MultimodalConfig(
        **common(t, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}),
        vision_config={
            **VISION,
            "num_hidden_layers": 3,
            # its image processor assumes 32 x 32 patches whatever the size
            "image_size": 64,
            "patch_size": 2,
            "crop_size": 64,
            "image_token_id": token(t, "<|image|>"),
        },
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 16,
            "input_size": 8,
            "audio_token_id": token(t, "<|audio|>"),
            "feature_layer": -1,
        },
    )
    processor = hf.Phi4MultimodalProcessor(
        hf.Phi4MultimodalImageProcessor(size=square(64), patch_size=2, dynamic_hd=2),
        hf.Phi4MultimodalFeatureExtractor(),
        t,
        chat_template=TEMPLATES["phi4"],
    )
    return hf.Phi4MultimodalForCausalLM(config), processor


def packaged_template(name: str) -> str:
    return (files("shiftdc_eval.backbones.convert") / f"{name}.jinja").read_text(encoding="utf-8")


def queries_processor(t: Any, template: str, side: int, queries: int, image_token: str) -> Any:
    return hf.LlavaProcessor(
        image_processor=SquareImageProcessor(size=square(side)),
        tokenizer=t,
        patch_size=side,
        num_additional_image_tokens=queries - 1,
        vision_feature_select_strategy="full",
        image_token=image_token,
        chat_template=packaged_template(template),
    )


def minigpt4() -> Built:
    t = tiny_tokenizer(bos=True)
    config = MiniGPT4Config(
        vision_config={**VISION, "image_size": 28, "patch_size": 14},
        qformer_config={**VISION, "num_hidden_layers": 3, "encoder_hidden_size": 16},
        text_config=hf.LlamaConfig(**common(t)),
        num_query_tokens=4,
        image_token_index=token(t, "<image>"),
    )
    return MiniGPT4ForConditionalGeneration(config), queries_processor(t, "minigpt4", 28, 4, "<image>")


def qwen_vl() -> Built:
    t = tiny_tokenizer(("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"))
    config = QwenVLConfig(
        vision_config={
            **VISION,
            "image_size": 56,
            "patch_size": 14,
            "output_dim": width(),
            "pool_heads": 1,
            "queries": 4,
        },
        text_config=hf.Qwen2Config(**{**common(t), "num_key_value_heads": 4}),
        image_token_index=token(t, "<imgpad>"),
    )
    return QwenVLForConditionalGeneration(config), queries_processor(t, "qwen_vl", 56, 4, "<imgpad>")


FAMILIES: dict[str, Family] = {
    "llava": Family(llava, "USER: <image>\nhello ASSISTANT:", "<image>"),
    "llava_next_vicuna": Family(llava_next("vicuna"), "USER: <image>\nhello ASSISTANT:", "<image>"),
    "llava_next_mistral": Family(
        llava_next("mistral_llava", hf.MistralConfig), "[INST] <image>\nhello [/INST]", "<image>"
    ),
    "llava_next_34b": Family(
        llava_next("chatml_34b"),
        "<|im_start|>user\n<image>\nhello<|im_end|><|im_start|>assistant\n",
        "<image>",
    ),
    "qwen2_vl": Family(
        qwen2_vl,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>hello<|im_end|>\n<|im_start|>assistant\n",
        "<|image_pad|>",
    ),
    "qwen2_5_vl": Family(
        qwen2_5_vl,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>hello<|im_end|>\n<|im_start|>assistant\n",
        "<|image_pad|>",
    ),
    "qwen3_vl": Family(
        qwen3_vl,
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>hello<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|image_pad|>",
    ),
    "internvl": Family(
        internvl(hf.Qwen2Config),
        "<|im_start|>user\n<IMG_CONTEXT>\nhello<|im_end|>\n<|im_start|>assistant\n",
        "<IMG_CONTEXT>",
    ),
    "internvl3_5": Family(
        internvl(hf.Qwen3Config, head_dim=8),
        "<|im_start|>user\n<IMG_CONTEXT>\nhello<|im_end|>\n<|im_start|>assistant\n",
        "<IMG_CONTEXT>",
    ),
    "llava_onevision": Family(
        llava_onevision,
        "<|im_start|>user <image>\nhello<|im_end|><|im_start|>assistant\n",
        "<image>",
    ),
    "gemma3": Family(
        gemma3,
        "<s><start_of_turn>user\n<start_of_image>hello<end_of_turn>\n<start_of_turn>model\n",
        "<image_soft_token>",
    ),
    "mllama": Family(
        mllama,
        "<s><|start_header_id|>user<|end_header_id|>\n\n<|image|>hello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|image|>",
    ),
    "mistral3": Family(mistral3, "<s>[INST][IMG]hello[/INST]", "[IMG]"),
    "pixtral": Family(pixtral, "<s>[INST][IMG]hello[/INST]", "[IMG]"),
    "idefics3": Family(
        idefics3, "<|begin_of_text|>User:<image>hello<end_of_utterance>\nAssistant:", "<image>"
    ),
    "smolvlm": Family(
        smolvlm, "<|im_start|>User:<image>hello<end_of_utterance>\nAssistant:", "<image>", package="num2words"
    ),
    "paligemma2": Family(paligemma2, None, "<image>"),
    "minigpt4": Family(minigpt4, "###Human: <Img><image></Img> hello ###Assistant: ", "<image>"),
    "qwen_vl": Family(
        qwen_vl,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Picture 1: <img><imgpad></img>\nhello<|im_end|>\n<|im_start|>assistant\n",
        "<imgpad>",
    ),
    "phi4_multimodal": Family(phi4_multimodal, "<|user|><|image|>hello<|end|><|assistant|>", "<|image|>"),
}
"""Name -> family; the contract test runs over all of them."""


def save_family(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a family's random model and processor; return the folder."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[name].build()
    with (
        torch.no_grad()
    ):  # weights large enough that hidden states, and so answers, differ from input to input
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.3)
            elif "bias" in parameter_name:
                parameter.normal_(0.0, 0.1)
    tokenizer = processor.tokenizer
    for field in ("eos_token_id", "pad_token_id", "bos_token_id"):
        setattr(model.generation_config, field, getattr(tokenizer, field))
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
