"""Names of the defenses that tests of all of them can run."""

from shiftdc_eval.defenses import DEFENSES

ALONE = [name for name in DEFENSES if not DEFENSES[name]().other_models]
"""Those that need no model besides the backbone."""
BLIND = ("refuse_all", "blank_image")
"""Controls to whose answers the request's image is nothing."""
SEEING = [name for name in ALONE if name not in BLIND]
"""The others."""
