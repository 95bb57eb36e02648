"""Prices of models behind endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import ConfigError

PRICES_VARIABLE = "SHIFTDC_PRICES"
TABLE = Path(__file__).parent / "prices.yaml"


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """USD for so many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


def price_of(host: str, model: str) -> Price | None:
    """The price of a model at a host, from the table named by `SHIFTDC_PRICES` or the package's own.

    Returns:
        None when the table has no such host or model: an unknown price is not zero.

    Raises:
        ConfigError: the table cannot be read.
    """
    path = Path(setting(PRICES_VARIABLE) or TABLE)
    try:
        table: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        row = (table.get(host) or {}).get(model)
        return None if row is None else Price(float(row["input"]), float(row["output"]))
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"price table {path} ({PRICES_VARIABLE}) cannot be read: {type(error).__name__}; "
            "expected `host: {model: {input: USD, output: USD}}` per million tokens"
        ) from error
