"""A Llama tokenizer from its published `tokenizer.model`, read with the sentencepiece library alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from shiftdc_eval.core.errors import ModelError


def llama_tokenizer(folder: Path) -> Any:
    """The tokenizer of a published Llama checkpoint, which puts a space before every piece of text.

    The original code tokenizes the text around an image piece by piece, each with that space. transformers'
    own `LlamaTokenizer` leaves the space out after an added token and before a space, so the rules are
    spelled out here instead.

    Raises:
        ModelError: the folder has neither tokenizer.json nor tokenizer.model, or the latter cannot be read.
    """
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise ModelError(f"{folder} has no tokenizer (tokenizer.model or tokenizer.json)")
    try:
        library = importlib.import_module("sentencepiece")
    except ImportError as error:
        raise ModelError(f"{path} is a sentencepiece model; install sentencepiece to read it") from error
    try:
        model = library.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError, TypeError) as error:
        raise ModelError(f"cannot read {path} as a sentencepiece model: {error}") from error
    count = model.get_piece_size()
    pieces = [model.id_to_piece(index) for index in range(count)]
    scores = [model.get_score(index) for index in range(count)]
    names = {
        name: pieces[index]
        for name, index in (
            ("unk_token", model.unk_id()),
            ("bos_token", model.bos_id()),
            ("eos_token", model.eos_id()),
            ("pad_token", model.pad_id()),
        )
        if index >= 0
    }
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merges(pieces, scores),
            unk_token=names.get("unk_token"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bos = names["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, model.bos_id())]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names)


def merges(pieces: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Pairs that may be joined, best first: sentencepiece joins the pair whose result scores highest."""
    index = {piece: at for at, piece in enumerate(pieces)}
    found = [
        (-scores[at], index[piece[:cut]], index[piece[cut:]])
        for piece, at in index.items()
        for cut in range(1, len(piece))
        if piece[:cut] in index and piece[cut:] in index
    ]
    return [(pieces[left], pieces[right]) for _, left, right in sorted(found)]
