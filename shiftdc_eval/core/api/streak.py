"""When a server is given up: one that answers nothing is not asked about every item."""

from __future__ import annotations

from dataclasses import dataclass, field

from shiftdc_eval.core.api.endpoint import Role
from shiftdc_eval.core.errors import Blame


@dataclass
class Streak:
    """Which items had no reply.

    Args:
        role: what the model is there for; names the error.
        name: of the judge or model, for the error.
        most: items in a row without a reply that are too many.
    """

    role: Role
    name: str
    most: int
    replied: bool = False
    """Whether any item had a reply."""
    _failures: dict[int, tuple[str, Blame]] = field(default_factory=dict)

    def failed(self, number: int, reason: str, blame: Blame) -> None:
        """An item had none.

        Args:
            number: its place among the items.
            reason: why; what stands before its first colon is the same for failures of one kind.
            blame: what it is due to; an item's own fault does not count.

        Raises:
            ShiftDCError: of the role's kind: it is one of several in a row that the server did not answer, or of
                several alike where no item had a reply.
        """
        if blame == "item":
            return
        self._failures[number] = reason, blame
        low = high = number
        while low - 1 in self._failures:
            low -= 1
        while high + 1 in self._failures:
            high += 1
        row = [self._failures[at] for at in range(low, high + 1)]
        unanswered = all(whose == "server" for _, whose in row)
        alike = len({why.partition(":")[0] for why, _ in row}) == 1 and not self.replied
        if len(row) >= self.most and (unanswered or alike):
            raise self.role.error(
                f"{self.role.name} {self.name}: {len(row)} items in a row without a reply: {reason}; "
                f"stopped, what was {self.role.done} so far is kept"
            )
