"""Judges: they turn (request, response) into a verdict."""
