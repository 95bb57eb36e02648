"""The benchmarks as lmms-eval tasks: one folder a benchmark."""
