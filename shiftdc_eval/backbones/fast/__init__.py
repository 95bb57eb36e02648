"""The fast engine: image prefixes stored and shared, decoding on a static cache, rows that come and go.

`refusal` says for which models it is exact; everything else is answered by the plain path.
"""
