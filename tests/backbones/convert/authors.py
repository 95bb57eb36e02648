"""What the authors of MiniGPT-4 and Qwen-VL do to images and prompts, told a second time: nothing of the package in here.

Sources: Vision-CAIR/MiniGPT-4 @d94738a (`eval_configs/minigpt4_eval.yaml`, `train_configs/minigpt4_stage2_finetune.yaml`,
`prompts/alignment.txt`, `minigpt4/models/minigpt_base.py`, `minigpt4/processors/blip_processors.py`); Qwen-VL-Chat's remote
code (`tokenization_qwen.py`, `qwen_generation_utils.py`, `modeling_qwen.py`, `visual.py`), read in the copies of
x1ngzai/Qwen-VL-Chat-Int4 @1cd721a, but for the blank after `Picture 1:`, which stands in Qwen-VL-Chat and in the README of
QwenLM/Qwen-VL @aa00ed0 and not in that copy.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision import transforms

MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)


def pixels(image: Image.Image, side: int) -> Tensor:
    """Both models' `[3, side, side]`: an RGB image of Pillow, resized bicubically, 0 to 1, normalised."""
    resized = transforms.Resize((side, side), interpolation=transforms.InterpolationMode.BICUBIC)
    made: Tensor = transforms.Compose([resized, transforms.ToTensor(), transforms.Normalize(MEAN, SPREAD)])(
        image.convert("RGB")
    )
    return made


MINIGPT4 = "###Human: {} ###Assistant: "
"""`prompt_template` of training and evaluation; the last character is a blank."""
MINIGPT4_IMAGE = "<Img><ImageHere></Img> "
"""What stands before the text of every training prompt."""


def minigpt4_ids(prompt: str, model: Any, image: Sequence[int]) -> list[int]:
    """Begin of sequence, then what lies around the images, each piece encoded by itself (`get_context_emb`).

    Args:
        prompt: text with `<ImageHere>`.
        model: Vicuna's, as the sentencepiece library reads it.
        image: ids that hold the place of one image.
    """
    first, *others = [model.encode(piece) for piece in prompt.split("<ImageHere>")]
    return [model.bos_id(), *first, *(token for piece in others for token in (*image, *piece))]


QWEN_PATTERN = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""`PAT_STR`."""
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_SPECIAL += [f"<|extra_{number}|>" for number in range(205)]
QWEN_SPECIAL += [f"<{end}{name}>" for name in ("ref", "box", "quad", "img") for end in ("", "/")] + [
    "<imgpad>"
]
"""`SPECIAL_TOKENS` and `IMAGE_ST`: their ids follow the last rank."""


def qwen_encoding(ranks: dict[bytes, int]) -> Any:
    """tiktoken's encoding as the published tokenizer makes it."""
    import tiktoken

    special = {token: len(ranks) + at for at, token in enumerate(QWEN_SPECIAL)}
    return tiktoken.Encoding("qwen", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens=special)


def qwen_text(parts: Sequence[str | None], seen: int = 0) -> str:
    """One turn as `from_list_format` writes it, None for an image; `seen`: pictures in the turns before."""
    text = ""
    for part in parts:
        if part is None:
            seen += 1
            text += f"Picture {seen}: <img></img>\n"
        else:
            text += part
    return text


def qwen_ids(turns: Sequence[tuple[str, str]], encoding: Any, queries: int) -> list[int]:
    """`make_context`: of every turn the role, a line break and the text are encoded apart, special tokens by number.

    Args:
        turns: role and text, `system` first, in which `<img></img>` stands for an image.
        encoding: of `qwen_encoding`.
        queries: places of one image.
    """

    def encoded(text: str) -> list[int]:
        return list(encoding.encode(unicodedata.normalize("NFC", text), allowed_special={"<img>", "</img>"}))

    opened, closed, start, end, pad = (
        encoding.encode_single_token(token)
        for token in ("<img>", "</img>", "<|im_start|>", "<|im_end|>", "<imgpad>")
    )
    ids: list[int] = []
    for role, text in turns:
        ids += [start, *encoded(role), *encoded("\n"), *encoded(text), end, *encoded("\n")]
    ids += [start, *encoded("assistant"), *encoded("\n")]
    filled: list[int] = []
    for token, following in zip(ids, [*ids[1:], -1], strict=True):
        filled += [token, *[pad] * queries] if (token, following) == (opened, closed) else [token]
    return filled
