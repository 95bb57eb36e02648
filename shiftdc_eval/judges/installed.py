"""Judges of other installed packages: entry points of the group `shiftdc_eval.judges`, name -> class or factory.

The class is called with the settings of the spec as keyword arguments (all text) and gives a `Judge`. Nothing
of a package is imported before one of its judges is asked for.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from shiftdc_eval.core.entry_points import clash, distribution, imported, said
from shiftdc_eval.core.errors import ConfigError, JudgeError, ShiftDCError
from shiftdc_eval.core.hashing import digest
from shiftdc_eval.judges.progress import timed
from shiftdc_eval.judges.verdict import VALUES, Item, Judge, Kind, OnVerdict, Verdict, ask, rubric_hash

GROUP = "shiftdc_eval.judges"


def load(name: str, entries: Sequence[EntryPoint], settings: dict[str, str], *, taken: bool) -> Judge:
    """The judge of an installed package.

    Args:
        settings: those of the spec; `as` is ours, all others are the judge's.
        taken: whether a built-in judge has this name.

    Raises:
        ConfigError: the name clashes, the package cannot be imported, or what it brings is no judge; one line
            that names the distribution.
    """
    if reason := clash(f"judge {name!r}", entries, taken=taken):
        raise ConfigError(reason)
    [entry] = entries
    where = f"judge {name!r} of {distribution(entry)} ({entry.value})"
    column = settings.pop("as", name)
    factory = imported(entry, where)
    if not callable(factory):
        raise ConfigError(f"{where} is neither a class nor a function that makes a judge")
    try:
        inspect.signature(factory).bind(**settings)
    except TypeError as error:  # it names the argument, never the value
        raise ConfigError(f"{where}: settings: {error}") from None
    except ValueError:  # a signature that cannot be read
        pass
    try:
        judge: Judge = factory(**settings)
    except ShiftDCError:
        raise
    except Exception as error:
        raise ConfigError(f"{where} cannot be made: {said(error)}") from error
    # looked up without asking: a fingerprint may take a model's files
    parts = ("kind", "fingerprint", "judge")
    missing = [part for part in parts if inspect.getattr_static(judge, part, None) is None]
    if missing or judge.kind not in VALUES:
        wrong = (
            f"it has no {missing[0]}" if missing else f"its kind is {judge.kind!r}, not {', '.join(VALUES)}"
        )
        raise ConfigError(f"{where} is no judge: {wrong} (shiftdc_eval.judges.Judge)")
    return InstalledJudge(column, judge, distribution(entry))


@dataclass(frozen=True)
class InstalledJudge:
    """A judge of another package, whose verdicts name the distribution and its version as their model."""

    name: str
    inner: Judge
    distribution: str
    """Name and version."""

    @property
    def kind(self) -> Kind:
        """What its verdicts are about."""
        return self.inner.kind

    @property
    def fingerprint(self) -> str:
        """sha256 of the judge's own fingerprint and of the distribution with its version."""
        return digest({"judge": self.inner.fingerprint, "distribution": self.distribution})

    @property
    def rubric(self) -> object:
        """What the judge asks, where it says so: a task leaves graders out that need a reference it lacks."""
        return getattr(self.inner, "rubric", None)

    @property
    def rubric_sha256(self) -> str:
        """Hash of the judge's rubric, if it has one."""
        return rubric_hash(self.inner)

    def judge(self, items: Sequence[Item], on_verdict: OnVerdict | None = None) -> list[Verdict]:
        """The package's verdicts, one an item."""
        begun = time.perf_counter()
        verdicts = ask(self.inner, items, on_verdict)
        right = [isinstance(verdict, Verdict) and verdict.kind == self.kind for verdict in verdicts]
        if len(right) != len(items) or not all(right):
            raise JudgeError(
                f"judge {self.name} of {self.distribution} gave {sum(right)} {self.kind} verdicts for "
                f"{len(items)} answers"
            )
        verdicts = timed(verdicts, time.perf_counter() - begun)
        return [verdict.model_copy(update={"model": self._model(verdict)}) for verdict in verdicts]

    def _model(self, verdict: Verdict) -> str:
        return f"{verdict.model} ({self.distribution})" if verdict.model else self.distribution
