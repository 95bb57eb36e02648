"""Converters: models published in a layout of their own, written in transformers' layout."""
