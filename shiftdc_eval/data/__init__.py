"""Data that comes with the package: the built-in contrast set."""
