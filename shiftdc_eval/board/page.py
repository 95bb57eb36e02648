"""Placeholder."""

from shiftdc_eval.board.index import Index


def page(index: Index) -> str:
    """Page."""
    return "<!doctype html>\n"
