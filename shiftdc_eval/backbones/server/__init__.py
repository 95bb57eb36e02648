"""Models behind an OpenAI-compatible server: chats in, texts out, and nothing else."""
