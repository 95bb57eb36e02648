"""Measure and compare inference-time safety defenses for vision-language models."""

from importlib.metadata import PackageNotFoundError, version

from shiftdc_eval import _moved

try:
    __version__ = version("shiftdc-eval")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "unknown"

_moved.install()
