"""Qwen's tokenizer from its published tiktoken file (`qwen.tiktoken`: a token in base64 and its rank, a line)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from shiftdc_eval.backbones.convert.llama import add_token
from shiftdc_eval.core.errors import ModelError

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The published pattern that cuts a text into pieces before byte pairs are joined."""
ROLE = r"\A(?:system|user|assistant)\n"
"""A turn's role and its line break, which `make_context` (qwen_generation_utils.py) encodes apart from the text:
without this cut the role's line break and a text's leading ones would be one token. What lies between two special
tokens is cut up by itself, so in a prompt this matches right after `<|im_start|>` alone."""
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)),
    "<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>",
)  # fmt: skip
"""Special tokens in the order of their ids, which follow the last rank."""


def qwen_tokenizer(path: Path) -> Any:
    """The tokenizer of Qwen-VL.

    Raises:
        ModelError: the file is missing or not a tiktoken file.
    """
    ranks = read_ranks(path)
    written = bytes_to_unicode()
    names = {token: "".join(written[byte] for byte in token) for token in ranks}
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            left, right = parts(token, ranks)
            merges.append((names[left], names[right]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(ROLE), behavior="isolated"),
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left")
    for special in SPECIAL:
        add_token(made, special)
    made.eos_token, made.pad_token = "<|im_end|>", "<|endoftext|>"
    return made


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes -> rank."""
    try:
        lines = path.read_bytes().splitlines()
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in map(bytes.split, lines)}
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path} as a tiktoken file: {error}") from error


def parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that a token is joined from: join its bytes by rank until only its own join is left.

    Raises:
        ModelError: the ranks do not lead to this token.
    """
    pieces = [token[at : at + 1] for at in range(len(token))]
    while len(pieces) > 2:
        best = min(range(len(pieces) - 1), key=lambda at: ranks.get(pieces[at] + pieces[at + 1], len(ranks)))
        joined = pieces[best] + pieces[best + 1]
        if ranks.get(joined, len(ranks)) >= ranks[token]:
            raise ModelError(f"the token {token!r} cannot be joined from tokens of lower rank")
        pieces[best : best + 2] = [joined]
    return pieces[0], pieces[1]
