"""Seeing the shift: activations recorded once, analysed without the model, shown as numbers and plots.

Recording (`recording`, `recorder`, `shards`) needs the model. Analysis (`resampling`, `probes`, `measures`,
`projection`) is functions of arrays and knows neither torch nor a model. Reporting (`findings`, `plots`,
`page`) knows the numbers alone.
"""
