"""A chat: turns of text and images, with the changes that defenses make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import image_sha256

Part = str | Image.Image


@dataclass(frozen=True)
class Turn:
    """One turn of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    parts: tuple[Part, ...]
    """Text and images in the order they are shown."""

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        return "\n".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Chat:
    """What a backbone answers. The request is the last user turn."""

    turns: tuple[Turn, ...]
    begun: str = ""
    """What the answer begins with: the model goes on from there, and the answer's text holds it. It is part of the
    prompt, whose last token is then its last token."""

    def __post_init__(self) -> None:
        """Checks what a caller gives.

        Raises:
            ConfigError: no user turn, or a part that is neither a text nor an image with pixels.
        """
        begun: object = self.begun
        if not isinstance(begun, str):
            raise ConfigError(f"the beginning of an answer is a {type(begun).__name__}, not a text")
        turns: object = self.turns
        if not isinstance(turns, tuple | list) or not all(isinstance(turn, Turn) for turn in turns):
            raise ConfigError(f"a chat is made of turns, not of {turns!r:.80}; write Chat.ask(text, [image])")
        object.__setattr__(self, "turns", tuple(turns))
        if not any(turn.role == "user" for turn in self.turns):
            raise ConfigError(
                "the chat has no user turn: there is nothing to answer; write Chat.ask(text, [image])"
            )
        for turn in self.turns:
            for part in turn.parts:
                _check_part(part, turn.role)

    @classmethod
    def ask(cls, text: str, images: Sequence[Image.Image] = (), *, system: str = "") -> Chat:
        """A single user turn, images first, with an optional system prompt.

        Raises:
            ConfigError: something that is no text or no image; a file must be opened first.
        """
        for image in [images] if isinstance(images, str | Image.Image) else images:
            if isinstance(images, Image.Image) or not isinstance(image, Image.Image):
                raise ConfigError(
                    f"{image!r:.80} is a {type(image).__name__}, not an image; open it with PIL.Image.open, and give "
                    "a list of images"
                )
        if not isinstance(text, str):
            raise ConfigError(f"the request is a {type(text).__name__}, not a text")
        turn = Turn("user", (*images, text))
        return cls((Turn("system", (system,)), turn) if system else (turn,))

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """Every image, in order."""
        return tuple(part for turn in self.turns for part in turn.parts if not isinstance(part, str))

    @property
    def request(self) -> str:
        """Text of the last user turn."""
        return self.turns[self._request_index].text

    @property
    def _request_index(self) -> int:
        return max(index for index, turn in enumerate(self.turns) if turn.role == "user")

    def with_request(self, text: str) -> Chat:
        """The same chat, images included, with another text in the last user turn (images come first)."""
        index = self._request_index
        turn = self.turns[index]
        images = tuple(part for part in turn.parts if not isinstance(part, str))
        return self._with_turn(index, replace(turn, parts=(*images, text)))

    def without_images(self) -> Chat:
        """The same chat without any image."""
        kept = (replace(t, parts=tuple(p for p in t.parts if isinstance(p, str))) for t in self.turns)
        return replace(self, turns=tuple(kept))

    def with_images(self, images: Sequence[Image.Image]) -> Chat:
        """The same chat with its images replaced one by one.

        Raises:
            ValueError: not as many images as the chat has.
        """
        if len(images) != len(self.images):
            raise ValueError(f"the chat has {len(self.images)} images, got {len(images)}")
        rest = iter(images)
        shown = (
            replace(t, parts=tuple(p if isinstance(p, str) else next(rest) for p in t.parts))
            for t in self.turns
        )
        return replace(self, turns=tuple(shown))

    def with_answer_begun(self, text: str) -> Chat:
        """The same chat, whose answer begins with a text."""
        return replace(self, begun=text)

    def _with_turn(self, index: int, turn: Turn) -> Chat:
        return replace(self, turns=(*self.turns[:index], turn, *self.turns[index + 1 :]))

    def messages(self) -> list[dict[str, Any]]:
        """The chat in the form of transformers' chat templates, without the beginning of an answer."""
        return [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part}
                    if isinstance(part, str)
                    else {"type": "image", "image": part}
                    for part in turn.parts
                ],
            }
            for turn in self.turns
        ]

    def key(self) -> list[Any]:
        """Everything that can change an answer, JSON-ready: roles, texts and hashes of image pixels."""
        turns = [
            [
                turn.role,
                *(part if isinstance(part, str) else {"image": image_sha256(part)} for part in turn.parts),
            ]
            for turn in self.turns
        ]
        return [*turns, {"begun": self.begun}] if self.begun else turns


def _check_part(part: object, role: str) -> None:
    if isinstance(part, Image.Image):
        if not all(part.size):
            raise ConfigError(
                f"an image of the {role} turn has {part.width} x {part.height} pixels: there is nothing to see"
            )
    elif not isinstance(part, str):
        raise ConfigError(
            f"a part of the {role} turn is a {type(part).__name__}, neither a text nor an image"
        )
