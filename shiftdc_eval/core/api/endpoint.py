"""Address and settings of a model's server, and its API key.

The key is read from the environment for each request and is never stored in an object, message or file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, FiniteFloat, PositiveInt

from shiftdc_eval.core.environment import foreign, setting
from shiftdc_eval.core.errors import ConfigError, JudgeError, ModelError, ShiftDCError
from shiftdc_eval.core.terminal import printable

OPENAI_URL = "https://api.openai.com/v1"
_SCHEMES = ("http", "https")
_SECRET = re.compile(
    r"\b(?:sk|pk|hf|gsk|xai|key)[-_][\w*.\-]{6,}|(?<=\bBearer )\S+|[A-Za-z0-9_\-]{32,}", re.IGNORECASE
)


@dataclass(frozen=True)
class Role:
    """What a model behind a server is there for: how messages name it, and which errors it ends with."""

    name: str
    subject: str
    done: str
    """What it has done with items."""
    variable: str
    """Variable of its key, before OpenAI's own."""
    error: type[ShiftDCError]


JUDGE = Role("judge", "judge model", "judged", "SHIFTDC_JUDGE_API_KEY", JudgeError)
ANSWERS = Role("server", "model", "answered", "SHIFTDC_SERVER_API_KEY", ModelError)
OPENAI_VARIABLE = "OPENAI_API_KEY"
KEY_VARIABLES = (JUDGE.variable, ANSWERS.variable, OPENAI_VARIABLE)


@dataclass(frozen=True)
class Endpoint:
    """Address of a model, time-outs and retries."""

    role: ClassVar[Role] = JUDGE
    model: str
    base_url: str
    concurrency: PositiveInt = 16
    """Most requests in flight at once; lowered for a while after a 429."""
    timeout: Annotated[FiniteFloat, Field(ge=0.01)] = 120.0
    """Seconds for one whole reply."""
    tries: PositiveInt = 5
    """Attempts at one item while its requests fail with transient errors."""
    patience: Annotated[FiniteFloat, Field(ge=0)] = 120.0
    """Longest wait in seconds that a server may ask for, and longest time without a reply while it limits the rate."""
    backoff: Annotated[FiniteFloat, Field(ge=0.001)] = 1.0
    """Seconds before the second attempt, whatever the server asks for; doubled for each further one."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            valid = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ConfigError(
                f"the {self.role.name}'s base_url is not an http(s) address (not shown, it might hold a key)"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                f"the {self.role.name}'s base_url (host {parts.hostname}) carries a user name, password, query or "
                f"fragment; put the key into {self.role.variable} instead"
            )

    @property
    def host(self) -> str:
        """Name of the host, without port."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def address(self) -> str:
        """Host, port and path, which distinguish two servers of one machine; never a key."""
        parts = urlsplit(self.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{parts.hostname}:{port}{parts.path}"


class ServedModel(Endpoint):
    """The endpoint of a model under evaluation."""

    role: ClassVar[Role] = ANSWERS


def api_key(endpoint: Endpoint) -> str:
    """The key from the environment; a placeholder for servers other than OpenAI's, which may need none.

    Raises:
        ShiftDCError: of the role's kind: there is none and OpenAI's own server needs one, or it fits no header.
    """
    role = endpoint.role
    for variable in (role.variable, OPENAI_VARIABLE):
        if key := _read(variable):
            if not (key.isascii() and key.isprintable() and " " not in key):
                raise role.error(
                    f"the key in {variable} holds a line break, a blank or another character that no key has "
                    "(not shown); set it again, to the key alone"
                )
            return key
    if endpoint.base_url.startswith(OPENAI_URL):
        raise role.error(f"no API key for {OPENAI_URL}; set {role.variable} or {OPENAI_VARIABLE}")
    return "none"


def redact(text: str) -> str:
    """The text without any of the keys in the environment."""
    for variable in KEY_VARIABLES:
        if key := _read(variable):
            text = text.replace(key, "[key]")
    return text


def masked(text: str) -> str:
    """A server's words on one line, at most 200 characters, without anything that looks like a key."""
    return printable(_SECRET.sub("[key]", redact(" ".join(text.split()))))[:200]


def _read(variable: str) -> str:
    return foreign(variable) if variable.startswith("OPENAI") else setting(variable)
