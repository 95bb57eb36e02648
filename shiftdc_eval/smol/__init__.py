"""The small research model: a LLaVA on SmolLM2-135M that reads the real benchmarks offline."""
