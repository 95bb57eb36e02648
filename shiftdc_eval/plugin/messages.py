"""From lmms-eval's requests to chats and generation settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from shiftdc_eval.backbones import Chat, GenerationSettings, Turn
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.core.images import load_image

INJECTED_UNTIL = ["\n\n"]
"""What lmms-eval 0.7.3 puts into a task that names no stop strings; it would cut answers at a blank line."""
DEFAULT_MAX_NEW_TOKENS = 512


def chat_from_messages(messages: Sequence[Mapping[str, Any]], system_prompt: str, *, where: str) -> Chat:
    """The chat that lmms-eval's messages describe; a system prompt replaces the task's own.

    Raises:
        ModelError: video or audio content.
        DataError: an image that cannot be read.
    """
    turns = [
        Turn(message["role"], tuple(_part(part, where) for part in _parts(message["content"])))
        for message in messages
    ]
    if not any(turn.role == "user" for turn in turns):
        raise ModelError(f"{where} has no user turn: there is nothing to answer")
    if system_prompt:
        turns = [Turn("system", (system_prompt,)), *(turn for turn in turns if turn.role != "system")]
    return Chat(tuple(turns))


def _parts(content: Any) -> Sequence[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: Mapping[str, Any], where: str) -> str | Image.Image:
    if part["type"] == "text":
        return str(part["text"])
    if part["type"] != "image":
        raise ModelError(f"{where} holds {part['type']} content; this model takes text and images")
    return load_image(part["url"], where)


def settings_from_kwargs(
    kwargs: Mapping[str, Any], *, use_cache: bool, where: str
) -> tuple[GenerationSettings, list[str]]:
    """Generation settings of a task, and notes on what was ignored.

    Raises:
        ConfigError: beam search, or a value out of range.
    """
    rest = dict(kwargs)
    notes = []
    until = rest.pop("until", None) or []
    until = [until] if isinstance(until, str) else list(until)
    if until == INJECTED_UNTIL:
        notes.append("the stop string that lmms-eval adds (a blank line) was ignored")
        until = []
    if (rest.pop("num_beams", None) or 1) != 1:
        raise ConfigError(f"{where} asks for beam search (num_beams={kwargs['num_beams']}); use num_beams=1")
    temperature = _number(rest, "temperature", 0.0, where)
    do_sample = bool(rest.pop("do_sample", temperature > 0))
    if do_sample and "temperature" in kwargs and temperature <= 0:
        raise ConfigError(f"{where}: do_sample needs a temperature above 0, got {kwargs['temperature']}")
    fallback = _number(rest, "max_gen_toks", DEFAULT_MAX_NEW_TOKENS, where)
    limit = _number(rest, "max_new_tokens", fallback, where)
    top_p, top_k = _number(rest, "top_p", 1.0, where), _number(rest, "top_k", 0, where)
    if not do_sample and (temperature > 0 or top_p not in (0.0, 1.0) or top_k > 0):
        notes.append("decoding is greedy: temperature, top_p and top_k were ignored (do_sample is not set)")
    settings = GenerationSettings(
        max_new_tokens=int(limit),
        do_sample=do_sample,
        temperature=(temperature or 1.0) if do_sample else 1.0,
        top_p=top_p if do_sample else 1.0,
        top_k=int(top_k) if do_sample else 0,
        until=tuple(until),
        use_cache=use_cache,
    )
    ignored = sorted(rest)
    if ignored:
        notes.append(f"generation settings that this model does not know were ignored: {', '.join(ignored)}")
    return settings, notes


def _number(rest: dict[str, Any], name: str, default: float, where: str) -> float:
    """Take a number out of the settings; None and absence mean the default.

    Raises:
        ConfigError: not a number.
    """
    value = rest.pop(name, None)
    if value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: generation setting {name}={value!r} is not a number") from error
