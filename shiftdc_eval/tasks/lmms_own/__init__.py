"""Tasks of lmms-eval's own whose per-sample scores the board takes."""
