"""MM-SafetyBench by the authors' protocol: per scenario, and means over scenarios.

The paper averages 13 scenarios without weights. Five of them (08, 10-13) ask for a disclaimer or a
refusal of politics and sit near one value for every method, so the mean over the eight clear-harm
scenarios stands beside it, and the micro means too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.judges.verdict import Verdict
from shiftdc_eval.tasks import leakage as calibration
from shiftdc_eval.tasks.data import first_existing, how_to_provide, local_folder
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.metrics import Metric, mean_of_means, split_means
from shiftdc_eval.tasks.mm_safetybench import files, hub
from shiftdc_eval.tasks.mm_safetybench.scenarios import KINDS, SCENARIOS
from shiftdc_eval.tasks.safety import SafetyTask

logger = logging.getLogger(__name__)

ALL = tuple(scenario.name for scenario in SCENARIOS)
CLEAR = tuple(scenario.name for scenario in SCENARIOS if scenario.clear_harm)
MEANS = {"mean_13": ALL, "mean_8": CLEAR}
"""Suffix of an unweighted mean -> the scenarios it is over."""


class MMSafetyBench(SafetyTask):
    """One kind of request (`kind: sd | typo | sd_typo | text_only`), all 1,680 questions or the tiny 168."""

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
        folder = local_folder("mm_safetybench")
        questions = first_existing(folder, "processed_questions", "data/processed_questions")
        if folder is not None and questions is not None:
            source = files.load(folder, questions, KINDS[kind])
        else:
            copy = folder if hub.is_hub_copy(folder) else None
            if folder is not None and copy is None:
                missing = how_to_provide("mm_safetybench")
                logger.warning("%s holds no MM-SafetyBench data, asking the hub. %s", folder, missing)
            source = hub.load(copy, KINDS[kind])
        examples = list(source.examples)
        if subset == "tiny":
            examples = self._tiny(examples, files.tiny_ids(folder))
        kept, notes = calibration.separate(examples, self.settings)
        self._excluded = len(examples) - len(kept)
        return Source(kept, source.dataset, source.revision, source.notes + notes)

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
