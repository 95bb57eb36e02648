"""Names of the defenses that tests of all of them can run."""

from shiftdc_eval.defenses import DEFENSES

BLIND = ("refuse_all", "blank_image")
"""Controls to whose answers the request's image is nothing."""
SEEING = [name for name in DEFENSES if name not in BLIND]
"""The others."""
