"""Tiny random models in the places of ETA's scorers."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf
from tiny_models import tiny_tokenizer

TEMPLATE = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"


def save_reward(folder: Path, outputs: int = 1) -> Path:
    """A random Llama with one output; the role is written in front of each text."""
    torch.manual_seed(11)
    t = tiny_tokenizer(("<|user|>", "<|assistant|>"))
    t.chat_template = TEMPLATE
    config = hf.LlamaConfig(
        vocab_size=len(t), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=outputs, pad_token_id=t.pad_token_id, initializer_range=0.5, max_position_embeddings=4096,
    )  # fmt: skip
    model = hf.LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.mul_(0.05)  # rewards about as large as cosines
    model.save_pretrained(folder)
    t.save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A random CLIP of 77 text positions."""
    torch.manual_seed(12)
    t = tiny_tokenizer(())
    t.model_max_length, t.padding_side = 77, "right"
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": t.bos_token_id, "eos_token_id": 2, "pad_token_id": t.pad_token_id}
    config = hf.CLIPConfig(
        text_config={**small, **ids, "vocab_size": len(t), "max_position_embeddings": 77},
        vision_config={**small, "image_size": 28, "patch_size": 14},
        projection_dim=16,
        initializer_factor=8.0,
    )
    hf.CLIPModel(config).save_pretrained(folder)
    images = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    hf.CLIPProcessor(images, t).save_pretrained(folder)
    return folder
