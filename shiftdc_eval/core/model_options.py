"""The options by which commands load a model with transformers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shiftdc_eval.core.model_spec import ModelSpec


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare revision, dtype and devices."""
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument("--device-map", help="auto shards one model over the devices")


def spec_of(model: str, args: argparse.Namespace) -> ModelSpec:
    """The model that these options name.

    Raises:
        ConfigError: an address; what is behind one cannot be looked into.
    """
    from shiftdc_eval.core.errors import ConfigError
    from shiftdc_eval.core.model_spec import ModelSpec

    if "://" in model:
        raise ConfigError(
            "an address is no model here: this command looks into a model, and one behind a server only answers; "
            "give a hub id or folder (`--model shiftdc_server` evaluates a served one)"
        )

    return ModelSpec(
        model, revision=args.revision, dtype=args.dtype, device=args.device, device_map=args.device_map
    )
