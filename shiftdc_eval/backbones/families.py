"""The few rules that differ from family to family and that the generic path cannot find by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shiftdc_eval.backbones.begun import prompts
from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.native.conversion import CONVERSION

Features = Mapping[str, Any]
"""What a processor returns; tensors under the names of the model's forward."""
PADDING: dict[str, Any] = {"padding": True, "padding_side": "left"}


def encode_by_template(processor: Any, chats: Sequence[Chat]) -> Features:
    """Render chats with the processor's own chat template and tokenize them, left-padded."""
    features: Features = processor.apply_chat_template(
        **prompts(processor, chats),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=dict(PADDING),
    )
    return features


def encode_paligemma(processor: Any, chats: Sequence[Chat]) -> Features:
    """PaliGemma knows no roles: image tokens, begin-of-sequence, the texts of all turns, a newline.

    The whole prompt is a prefix (token type 0) that attends in both directions. Its processor refuses
    chats without an image, so their prompt is tokenized here in the same form. The beginning of an answer stands
    behind the prefix (token type 1).
    """
    texts = ["\n".join(turn.text for turn in chat.turns if turn.text) for chat in chats]
    if chats[0].images:
        prefixes = [
            processor.image_token * len(c.images) + text for c, text in zip(chats, texts, strict=True)
        ]
        images = [list(chat.images) for chat in chats]
        features = dict(processor(text=prefixes, images=images, return_tensors="pt", **PADDING))
        features.pop("labels", None)
    else:
        tokenizer = processor.tokenizer
        features = dict(
            tokenizer(
                [f"{tokenizer.bos_token}{text}\n" for text in texts],
                return_tensors="pt",
                return_token_type_ids=True,
                add_special_tokens=False,
                **PADDING,
            )
        )
    begun = [chat.begun for chat in chats]
    return _with_suffixes(processor.tokenizer, features, begun) if any(begun) else features


def _with_suffixes(tokenizer: Any, features: dict[str, Any], suffixes: Sequence[str]) -> Features:
    """PaliGemma's prompts with what their answers begin with, padded anew."""
    rows = []
    for row, suffix in enumerate(suffixes):
        ids, real = features["input_ids"][row], features["attention_mask"][row].bool()
        more = tokenizer(suffix, add_special_tokens=False)["input_ids"]
        types = [*features["token_type_ids"][row][real].tolist(), *[1] * len(more)]
        rows.append({"input_ids": [*ids[real].tolist(), *more], "token_type_ids": types})
    return {**features, **tokenizer.pad(rows, return_tensors="pt", **PADDING)}


ENCODERS: dict[str, Callable[[Any, Sequence[Chat]], Features]] = {"paligemma": encode_paligemma}
"""`model_type` -> how chats become inputs, where the family has no chat template of its own."""

MULTIMODAL_LM_ONLY = frozenset({"phi4_multimodal"})
"""`model_type` of vision-language models that transformers lists under `AutoModelForMultimodalLM` alone."""

CAVEATS: dict[str, str] = {
    "phi4_multimodal": "the checkpoint's vision adapter (LoRA) is not applied unless it was merged beforehand"
}
"""`model_type` -> caveat that is recorded with every result of such a model."""

ABSENT_WEIGHTS: dict[str, tuple[str, ...]] = {}
"""`model_type` -> patterns of weights that a checkpoint may lack; any other missing weight ends loading."""
UNUSED_WEIGHTS: dict[str, tuple[str, ...]] = {"phi4_multimodal": (r"\.lora_[AB]\.",)}
"""`model_type` -> patterns of weights that a checkpoint may hold beyond the model's own (see `CAVEATS`)."""

OUTDATED: dict[str, tuple[str, str]] = {
    "shiftdc_minigpt4": (
        "minigpt4",
        "its template lacks the blank after `###Assistant:`, and its images are not resized as the authors' are",
    ),
    "shiftdc_qwen_vl": (
        "qwen-vl",
        "its tokenizer joins a text's leading line breaks with the role's, and its images are not resized as the "
        "authors' are",
    ),
}
"""`model_type` -> the converter's name, and what is wrong with folders that it wrote before `CONVERSION`."""


def convertible(config: Mapping[str, Any]) -> str | None:
    """Why a model must be converted first: a layout of its own, or a folder that an older version wrote; else None."""
    if "mm_vision_tower" in config:
        return (
            "is in the original LLaVA layout; make a folder in transformers' layout with "
            "`shiftdc-eval convert llava SRC DST` and load that"
        )
    if config.get("model_type") == "qwen" and "visual" in config:
        return (
            "needs remote code that does not run on transformers 5; make a folder for this package with "
            "`shiftdc-eval convert qwen-vl SRC DST` and load that"
        )
    kind, wrong = OUTDATED.get(str(config.get("model_type")), ("", ""))
    if kind and int(config.get("conversion") or 1) < CONVERSION:
        return f"was converted by an older version: {wrong}; convert again with `shiftdc-eval convert {kind}`"
    return None


BIDIRECTIONAL = frozenset(
    {"Phi4MultimodalVisionAttention", "MllamaVisionAttention", "MllamaTextCrossAttention"}
)
"""Attention classes that look in both directions, and that transformers 5.24 runs as causal under SDPA
whenever no mask is passed (huggingface/transformers issue 48172 tells of Mllama's). For Phi-4-multimodal that
is every image that fills its tiles exactly, unless another image of the batch does not: without this
correction its answers depend on the batch."""


def mend_attention(model: Any) -> None:
    """Declare attention that is not causal as what it is."""
    for module in model.modules():
        if type(module).__name__ in BIDIRECTIONAL:
            module.is_causal = False


def layers_that_need_an_image(config: Any) -> frozenset[int]:
    """Decoder layers that a prompt without images skips: the cross-attention layers of Mllama."""
    return frozenset(getattr(config.get_text_config(), "cross_attention_layers", None) or ())


def image_placeholders(config: Any) -> list[int]:
    """Token ids that stand for images or videos in a prompt."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    holders = (config, getattr(config, "vision_config", None))
    ids = {getattr(holder, name, None) for holder in holders for name in names}
    return sorted(token for token in ids if isinstance(token, int) and token >= 0)
