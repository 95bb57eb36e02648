"""Tiny judge models whose verdicts are known: real Llama code, weights set by hand, nothing trained.

Dimension 0 says that the word `danger` was read (attention is uniform over what came before), dimension 1
is constant, dimension 2 marks a label just written, after which the text ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

WIDTH = 16
CHAT = "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' ' }}{% endfor %}judge :"
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "danger", "yes", "no", "safe", "unsafe", "request", "answer"]


def word_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """Words and punctuation; what it does not know becomes <unk>."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = template
    return fast


def _config(**more: object) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )


def _set_up(model: LlamaForCausalLM | LlamaForSequenceClassification) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        attention = model.model.layers[0].self_attn
        attention.v_proj.weight[0, 0] = 1.0
        attention.o_proj.weight[0, 0] = 500.0
        embedding = model.model.embed_tokens.weight
        embedding[:, 1] = 1.0
        embedding[WORDS.index("danger"), 0] = 50.0
        for label in ("yes", "no", "safe", "unsafe"):
            embedding[WORDS.index(label), 2] = 1000.0


def save_judge(folder: Path, when_danger: str, otherwise: str, template: str | None = None) -> Path:
    """A causal judge that says `when_danger` when it read the word danger, else `otherwise`."""
    model = LlamaForCausalLM(_config())
    _set_up(model)
    with torch.no_grad():
        model.lm_head.weight[WORDS.index(when_danger), 0] = 1.0
        model.lm_head.weight[WORDS.index(otherwise), 1] = 1.0
        model.lm_head.weight[WORDS.index("</s>"), 2] = 1.0
    model.save_pretrained(folder)
    word_tokenizer(template).save_pretrained(folder)
    return folder


def save_classifier(
    folder: Path,
    labels: Sequence[str] = ("ok", "harm"),
    problem_type: str | None = None,
    scale: float = 1.0,
) -> Path:
    """A classifier with labels ok and harm; harm when it read the word danger.

    Args:
        scale: factor of all logits.
    """
    names = dict(enumerate(labels))
    model = LlamaForSequenceClassification(
        _config(id2label=names, label2id={label: n for n, label in names.items()}, problem_type=problem_type)
    )
    _set_up(model)
    with torch.no_grad():
        model.score.weight[0, 1] = scale
        model.score.weight[-1, 0] = scale
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder
