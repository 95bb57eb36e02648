"""Labelled answers for refusal judges, and the recipe of a learned one (docs/judge_agreement.md)."""
