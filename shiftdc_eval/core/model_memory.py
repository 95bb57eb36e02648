"""Memory that a loaded model lends to a judge of the same process."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

Vacate = Callable[[], AbstractContextManager[None]]
_tenants: list[weakref.WeakMethod[Vacate]] = []


def offer_room(vacate: Vacate) -> None:
    """Register a model of this process whose memory can be freed for a while.

    Args:
        vacate: a bound method, not kept alive; the context it gives begins with the memory free.
    """
    withdraw_room(vacate)
    _tenants.append(weakref.WeakMethod(vacate))


def withdraw_room(vacate: Vacate) -> None:
    """Unregister it: the model is needed again."""
    _tenants[:] = [tenant for tenant in _tenants if tenant() not in (None, vacate)]


@contextmanager
def room() -> Iterator[None]:
    """Frees the memory of every registered model for as long as the context lasts."""
    with ExitStack() as stack:
        for vacate in [tenant() for tenant in _tenants]:
            if vacate is not None:
                stack.enter_context(vacate())
        yield
