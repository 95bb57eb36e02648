"""The final answer of a reasoning model: what stands outside its reasoning.

Known forms: pairs of tags (`TAGS`), OpenAI's harmony channels with and without their special tokens, and an
`<answer>` block. A template may have put the opening tag into the prompt, so that an answer has the closing tag alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shiftdc_eval.core.errors import ConfigError

Tags = tuple[tuple[str, str], ...]
"""(opening, closing) pairs."""

TAGS: Tags = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<analysis>", "</analysis>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""Tags of DeepSeek-R1, Qwen3, GLM-V, Kimi-VL (triangles), Magistral, Seed-OSS and others, and lmms-eval's defaults."""
LMMS_EVAL_DEFAULT: Tags = (("<think>", "</think>"), ("<analysis>", "</analysis>"))
"""What lmms-eval's `--reasoning_tags` is where nobody gives it."""

_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>", re.I
)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_BARE_START = re.compile(r"\s*analysis(?=[A-Z\"'`*\d])")
_BARE_FINAL = re.compile(r"assistant\s*final(?!\w*\s*answer)")
"""Harmony channels whose special tokens the tokenizer left out: `analysisWe need ...assistantfinalSure`."""
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_FENCE = re.compile(r"^[^\S\n]*(?:```|~~~)", re.MULTILINE)
_WRAPPER = re.compile(r"<\|(?:begin|end)_of_(?:solution|box)\|>")


@dataclass(frozen=True)
class Final:
    """A response without its reasoning."""

    text: str | None
    """The final answer; None where the response ends inside its reasoning."""
    stripped: tuple[str, ...] = ()
    """What was taken off, by opening tag (`<think>`, `harmony`, `<answer>`)."""
    cut: str = ""
    """Why there is no final answer; empty where there is one."""


def final_answer(response: str, tags: Tags | None = None) -> Final:
    """The final answer in a response.

    Args:
        tags: the only pairs to look for, as the user gave them; None: every form that we know.
    """
    text = response
    stripped: list[str] = []
    for opening, closing in TAGS if tags is None else tags:
        shorter = _without_block(text, opening, closing, any_case=tags is None)
        if shorter is None:
            return _cut(opening, stripped)
        if shorter != text:
            stripped.append(opening)
            text = shorter
    if tags is None:
        channel = _final_channel(text)
        if channel is None:
            return _cut("harmony", stripped)
        if channel != text:
            stripped.append("harmony")
            text = _WRAPPER.sub("", channel)
        inside = _inside_answer(_WRAPPER.sub("", text))
        if inside != text:
            stripped.append("<answer>")
            text = inside
    # As it was where nothing was taken off: published judges see line breaks and blanks as they are.
    return Final(text.strip() if stripped else response, tuple(stripped))


def _cut(form: str, stripped: Sequence[str]) -> Final:
    reason = f"the response ends inside its reasoning ({form}), cut at the token limit: it holds no answer"
    return Final(None, (*stripped, form), reason)


def _without_block(text: str, opening: str, closing: str, *, any_case: bool) -> str | None:
    """The text without the blocks of one pair of tags; None where one that begins a line is never closed."""
    flags = re.DOTALL | (re.IGNORECASE if any_case else 0)
    start, end = _tag(opening, any_case), _tag(closing, any_case)
    text = re.sub(f"{start}.*?{end}", "", text, flags=flags)
    # nested blocks, and an opening tag that stood in the prompt
    ends = [found.end() for found in re.finditer(end, text, flags) if not _in_code(text, found)]
    text = text[ends[-1] :] if ends else text
    return None if re.search(rf"(?:\A|\n)[^\S\n]*{start}", text, flags=flags) else text


def _tag(tag: str, any_case: bool) -> str:
    """Pattern of a tag; of those that we know also with blanks and attributes (`<think type="long">`)."""
    with_attributes = any_case and tag.startswith("<") and not tag.startswith("<|")
    return rf"{re.escape(tag[:-1])}(?:\s[^<>]*)?>" if with_attributes else re.escape(tag)


def _in_code(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag is spoken about: between backticks, or in a code block that is opened and closed around it."""
    before, after = text[: tag.start()], text[tag.end() :]
    if before.endswith("`") and after.startswith("`"):
        return True
    return len(_FENCE.findall(before)) % 2 == 1 == len(_FENCE.findall(after)) % 2


def _final_channel(text: str) -> str | None:
    """The text of harmony's final channel; the text itself where there is no channel, None where only others are."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        finals = [found for found in channels if found[1].lower() == "final"]
        return _CHANNEL_END.split(text[finals[-1].end() :])[0] if finals else None
    if _BARE_START.match(text):
        parts = _BARE_FINAL.split(text)
        return parts[-1] if len(parts) > 1 else None
    return text


def _inside_answer(text: str) -> str:
    """The inside of an answer block that ends the text; else the text without such tags, so that nothing is hidden."""
    blocks = list(_ANSWER.finditer(text))
    if len(blocks) == 1 and not text[blocks[0].end() :].strip():
        return blocks[0][1]
    return _ANSWER_TAG.sub("", text) if blocks else text


def reasoning_tags(given: object, source: str) -> Tags | None:
    """The value of lmms-eval's `--reasoning_tags`, or of a task's key of that name.

    Args:
        given: its JSON text, the pairs themselves, `none`, or None.
        source: where it came from, for the error.

    Returns:
        None where nobody gave it (or lmms-eval's own default stands there): every form that we know; no pairs for
        `none`.

    Raises:
        ConfigError: it is no list of pairs.
    """
    if given is None:
        return None
    if given == "none" or given is False:
        return ()
    try:
        pairs: Any = json.loads(given) if isinstance(given, str) else given
        tags = tuple((opening, closing) for opening, closing in pairs)
        if not all(isinstance(tag, str) and tag for pair in tags for tag in pair):
            raise ValueError("a tag is no text")
    except (ValueError, TypeError):
        raise ConfigError(
            f"{source}: {str(given)[:80]!r} is no list of tag pairs; write it as "
            '[["<think>", "</think>"]], or none'
        ) from None
    return None if tags == LMMS_EVAL_DEFAULT else tags
