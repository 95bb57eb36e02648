"""The benchmarks of the toy world: the same task classes, drawn instead of loaded."""
