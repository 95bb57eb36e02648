"""MM-SafetyBench by the authors' protocol: per scenario, and means over scenarios.

The paper averages 13 scenarios without weights. Five of them (08, 10-13) ask for a disclaimer or a
refusal of politics and differ little between methods, so the mean over the eight clear-harm scenarios and the
share of all answers are reported too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from shiftdc_eval.judges.verdict import Verdict
from shiftdc_eval.tasks import leakage
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.fonts import rendered_notes
from shiftdc_eval.tasks.metrics import Metric, mean_of_means, split_means
from shiftdc_eval.tasks.mm_safetybench import facts, files
from shiftdc_eval.tasks.mm_safetybench.scenarios import ALL, CLEAR
from shiftdc_eval.tasks.safety import SafetyTask

MEANS = {"mean_13": ALL, "mean_8": CLEAR}
"""Suffix of an unweighted mean -> the scenarios it covers."""


class MMSafetyBench(SafetyTask):
    """One kind of request (`kind: sd | typo | sd_typo | text_only`), all 1,680 questions or the tiny 168."""

    infos = facts.TASKS
    group: ClassVar[str] = "scenario"
    clear_parts: ClassVar[tuple[str, ...]] = CLEAR

    def load(self) -> Source:
        """From a local folder in the authors' or the hub's layout, else from the hub.

        Raises:
            DataError: data missing or malformed.
            ConfigError: unknown kind or subset.
        """
        source = files.load(self.info.name, self.settings)
        kept, notes = leakage.separate(source.examples, self.settings)
        ids = {example.id for example in kept}
        self.excluded = Counter(one.scenario for one in source.examples if one.id not in ids)
        notes = (*rendered_notes(kept, source.font), *source.notes, *notes)
        return replace(source, examples=kept, notes=notes)

    def metrics(self) -> dict[str, Metric]:
        """As every safety task, and each rate's unweighted means over scenarios."""
        found = super().metrics()
        for judge in self.judges:
            for base in self.rates(judge):
                for name, scenarios in MEANS.items():
                    better = base == "refusal_rate"
                    aggregate = partial(self._mean_over, scenarios)
                    found[f"{base}_{name}{self.suffix(judge)}"] = Metric(aggregate, better, scenarios)
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
