"""Labelled answers for refusal judges, and the recipe of a learned one (docs/judges.md)."""
