"""MOSSBench: harmless questions about images that make models refuse."""
