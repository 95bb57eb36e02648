"""MM-SafetyBench: 1,680 questions of 13 scenarios, each with up to three kinds of images."""
