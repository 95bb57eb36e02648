"""Builds the untrained toy model: a real LLaVA, tokenizer, processor and chat template, only very small."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shiftdc_eval.tasks.toy.world.drawing import SIZE
from training.toy.corpus import Example

PATCH = 16
IMAGE_TOKENS = (SIZE // PATCH) ** 2
VOCABULARY = 1400
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
UNK, BOS, EOS, PAD, IMAGE = range(5)

# USER/ASSISTANT turns in the manner of LLaVA-1.5: images first, then the words, one blank after each turn.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set role = message['role'] -%}"
    "{%- if role != 'system' -%}{{ role | upper + ': ' }}{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}"
    "{{ part['text'] }}{%- if not loop.last %} {% endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{ '</s>' if role == 'assistant' else ' ' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)


def chat(example: Example) -> str:
    """The prompt of a training example as the chat template writes it, up to and with `ASSISTANT:`."""
    system = f"{example.system} " if example.system else ""
    earlier = ""
    if example.earlier:
        earlier = f"USER: {example.earlier[0]} ASSISTANT: {example.earlier[1]}</s>"
    image = "<image>\n" if example.picture else ""
    return f"{system}{earlier}USER: {image}{example.prompt} ASSISTANT:"


def messages(example: Example) -> list[dict[str, Any]]:
    """The same prompt as chat messages."""
    found: list[dict[str, Any]] = []
    if example.system:
        found.append({"role": "system", "content": [{"type": "text", "text": example.system}]})
    if example.earlier:
        for role, text in zip(("user", "assistant"), example.earlier, strict=True):
            found.append({"role": role, "content": [{"type": "text", "text": text}]})
    content: list[dict[str, Any]] = [{"type": "image"}] if example.picture else []
    found.append({"role": "user", "content": [*content, {"type": "text", "text": example.prompt}]})
    return found


def build_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE tokenizer trained on `texts`, which puts `<s>` before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        padding_side="left",
        model_max_length=512,
        extra_special_tokens={"image_token": "<image>"},
    )


def build_processor(tokenizer: Any) -> Any:
    """The LLaVA processor: 128 px images, 64 image tokens each, our chat template."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
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


def build_model(vocabulary: int) -> Any:
    """An untrained `LlavaForConditionalGeneration` of about 4 million parameters."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.bos_token_id = BOS
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    model.generation_config.do_sample = False
    return model
