"""MSTS: short prompts in eleven languages that are unsafe together with their image."""
