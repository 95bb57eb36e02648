"""vLLM as the engine: the edits of defenses made inside its workers, in prefill.

`backbone` is the face; `engine` starts vLLM and hands requests over; `worker` and `steps` run inside vLLM's workers;
`wire` turns a defense's edits into what travels there; `remote` stands for activations that stay there. vLLM itself
is imported when an engine is started, never before.
"""
