"""Measure and compare inference-time safety defenses for vision-language models."""
