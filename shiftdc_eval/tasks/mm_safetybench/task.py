"""MM-SafetyBench by the authors' protocol: per scenario, and means over scenarios.

The paper averages 13 scenarios without weights. Five of them (08, 10-13) ask for a disclaimer or a
refusal of politics and give about the same value for every method, so the mean over the eight clear-harm
scenarios and the means over all answers are reported too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.judges.verdict import Verdict
from shiftdc_eval.tasks import leakage as calibration
from shiftdc_eval.tasks.data import first_existing, local_folder, local_or_hub
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.fonts import rendered_notes
from shiftdc_eval.tasks.metrics import Metric, mean_of_means, split_means
from shiftdc_eval.tasks.mm_safetybench import facts, files, hub
from shiftdc_eval.tasks.mm_safetybench.scenarios import ALL, CLEAR, KINDS, RequestKind
from shiftdc_eval.tasks.safety import SafetyTask

MEANS = {"mean_13": ALL, "mean_8": CLEAR}
"""Suffix of an unweighted mean -> the scenarios it is over."""


class MMSafetyBench(SafetyTask):
    """One kind of request (`kind: sd | typo | sd_typo | text_only`), all 1,680 questions or the tiny 168."""

    infos = facts.TASKS
    group: ClassVar[str] = "scenario"

    def load(self) -> Source:
        """From a local folder in the authors' or the hub's layout, else from the hub.

        Raises:
            DataError: data missing or malformed.
            ConfigError: unknown kind or subset.
        """
        kind, subset = self.settings.get("kind"), self.settings.get("subset", "full")
        if kind not in KINDS or subset not in ("full", "tiny"):
            raise ConfigError(
                f"{self.info.name}: kind must be one of {', '.join(KINDS)} and subset full or tiny, "
                f"found {kind!r} and {subset!r}"
            )
        source = local_or_hub(
            "mm_safetybench", partial(_from_folder, KINDS[kind]), partial(hub.load, None, KINDS[kind])
        )
        examples = list(source.examples)
        if subset == "tiny":
            examples = self._tiny(examples, files.tiny_ids(local_folder("mm_safetybench")))
        kept, notes = calibration.separate(examples, self.settings)
        self._excluded = len(examples) - len(kept)
        notes = (*rendered_notes(kept, source.font), *source.notes, *notes)
        return Source(kept, source.dataset, source.revision, notes)

    def items(self) -> int:
        """Items of the task, less the excluded calibration items."""
        return super().items() - self._excluded

    def _tiny(self, examples: Sequence[Example], ids: set[str]) -> list[Example]:
        absent = ids - {example.question for example in examples}
        if absent:
            raise DataError(
                f"{self.info.name}: {sorted(absent)[0]} of the tiny list is not among the questions"
            )
        return [example for example in examples if example.question in ids]

    def metrics(self) -> dict[str, Metric]:
        """As every safety task, and each rate's unweighted means over scenarios."""
        found = super().metrics()
        for judge in self.judges:
            for base in self.rates(judge):
                for name, scenarios in MEANS.items():
                    better = base == "refusal_rate"
                    aggregate = partial(self._mean_over, scenarios)
                    found[f"{base}_{name}{self.suffix(judge)}"] = Metric(aggregate, better)
        return found

    def metric_values(self, example: Example, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
        """As every safety task; the means over scenarios need the item beside the value."""
        values = super().metric_values(example, verdicts)
        for judge in self.judges:
            for base in self.rates(judge):
                row = {"item": example.id, "value": values[f"{base}{self.suffix(judge)}"]}
                values |= {f"{base}_{name}{self.suffix(judge)}": row for name in MEANS}
        return values

    def _mean_over(self, scenarios: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> float | str:
        by_item = self.checked(rows)
        groups = {item: self._by_id[item].scenario for item in by_item}
        parts = split_means({item: row["value"] for item, row in by_item.items()}, groups)
        return mean_of_means(parts, scenarios)


def _from_folder(kind: RequestKind, folder: Path) -> Source | None:
    questions = first_existing(folder, "processed_questions", "data/processed_questions")
    if questions is not None:
        return files.load(folder, questions, kind)
    return hub.load(folder, kind) if hub.is_hub_copy(folder) else None
