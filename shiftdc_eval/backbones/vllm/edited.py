"""Prompts whose last token was edited: whatever continues one must not find its stored blocks."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence


class EditedPrompts:
    """Edited prompts by length.

    vLLM stores whole blocks of keys and values under the tokens up to them, and always computes the last token of a
    prompt anew. So a block with an edited token can only be found by a prompt that begins with the whole edited one
    and goes on: a later turn of the same chat, say. Such a prompt is given a salt, with which it finds no blocks but
    those of prompts that continue the same edited one.
    """

    def __init__(self) -> None:
        self._found: dict[int, set[bytes]] = {}

    def __contains__(self, ids: Sequence[int]) -> bool:
        return hashlib.blake2b(_bytes(ids), digest_size=16).digest() in self._found.get(len(ids), ())

    def add(self, ids: Sequence[int]) -> None:
        """Note that a prompt's last token is edited."""
        self._found.setdefault(len(ids), set()).add(hashlib.blake2b(_bytes(ids), digest_size=16).digest())

    def salt(self, ids: Sequence[int]) -> str | None:
        """A name of the longest edited prompt that this one continues; None where there is none."""
        digest, done, longest = hashlib.blake2b(digest_size=16), 0, None
        for length in sorted(length for length in self._found if length < len(ids)):
            digest.update(_bytes(ids[done:length]))
            done = length
            if (found := digest.copy().digest()) in self._found[length]:
                longest = found.hex()
        return longest


def _bytes(ids: Sequence[int]) -> bytes:
    return array("q", ids).tobytes()
