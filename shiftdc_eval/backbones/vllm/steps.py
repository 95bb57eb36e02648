"""Which rows of a step of vLLM hold the last prompt token of which request; runs inside a worker, knows no vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ROLE = "shiftdc"
"""Key of a request's role among vLLM's extra arguments of sampling."""


class Steps:
    """Follows the scheduler: how long each prompt is, and how much of it is computed.

    A prompt may be computed in chunks, start on a stored prefix, be preempted and computed anew: its last token is in
    a step if and only if `computed < prompt <= computed + scheduled`.
    """

    def __init__(self) -> None:
        self._prompt: dict[str, int] = {}
        self._computed: dict[str, int] = {}
        self._roles: dict[str, Mapping[str, Any]] = {}
        self._scheduled: Mapping[str, int] = {}
        self.restored: set[str] = set()
        """Keys of requests that were preempted and went on from stored blocks behind their prompt: blocks that another
        request with the same tokens may have made."""

    def begin(self, scheduled: Any) -> None:
        """Take the scheduler's output for the step that follows."""
        for request in scheduled.finished_req_ids:
            self._prompt.pop(request, None)
            self._computed.pop(request, None)
            self._roles.pop(request, None)
        resumed = set(scheduled.scheduled_cached_reqs.resumed_req_ids)
        for new in scheduled.scheduled_new_reqs:
            name = new.req_id
            if (
                name in self._prompt
            ):  # the runner of vLLM's second generation sees a resumed request as a new one
                resumed.add(name)
            self._prompt[name], self._computed[name] = len(new.prompt_token_ids), new.num_computed_tokens
            extra = getattr(new.sampling_params, "extra_args", None) or {}
            self._roles[name] = extra.get(ROLE) or {}
        cached = scheduled.scheduled_cached_reqs
        self._computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        self._scheduled = scheduled.num_scheduled_tokens
        for name in resumed:
            if self._computed[name] >= self._prompt[name] and "key" in self._roles[name]:
                self.restored.add(self._roles[name]["key"])

    def planned(self) -> bool:
        """Whether a last prompt token of a request with a plan is in this step."""
        return any(self._holds_last(name) and self._roles[name].get("plan") for name in self._scheduled)

    def _holds_last(self, name: str) -> bool:
        done = self._computed[name]
        return done < self._prompt[name] <= done + self._scheduled[name]

    def last_tokens(self, order: Sequence[str]) -> list[tuple[int, Mapping[str, Any]]]:
        """Row of each last prompt token in this step, with the request's role; requests without one are left out.

        Args:
            order: request ids in the order in which their tokens lie in the step's hidden states.
        """
        found, start = [], 0
        for name in order:
            if self._holds_last(name) and self._roles[name].get("plan"):
                found.append((start + self._prompt[name] - 1 - self._computed[name], self._roles[name]))
            start += self._scheduled[name]
        return found
