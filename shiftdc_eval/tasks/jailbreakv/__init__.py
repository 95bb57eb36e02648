"""JailBreakV-28K's mini split: jailbreak prompts of five kinds, each with an image."""
