"""The 13 scenarios and the four kinds of requests.

Source: isXinLiu/MM-SafetyBench (data CC BY-NC 4.0), arXiv 2311.17600; counts are of its question files.
The spelling is the authors'.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One of the benchmark's scenarios."""

    name: str
    """Name of its question file, e.g. `01-Illegal_Activitiy`."""
    size: int
    """Questions."""
    tiny: int
    """Questions of the authors' tiny version."""
    clear_harm: bool
    """False where the official rule asks for a disclaimer or a refusal of politics, not for harm."""

    @property
    def config(self) -> str:
        """Name of its config on the hub: the name without its number."""
        return self.name.partition("-")[2]


SCENARIOS = (
    Scenario("01-Illegal_Activitiy", 97, 10, True),
    Scenario("02-HateSpeech", 163, 16, True),
    Scenario("03-Malware_Generation", 44, 5, True),
    Scenario("04-Physical_Harm", 144, 14, True),
    Scenario("05-EconomicHarm", 122, 12, True),
    Scenario("06-Fraud", 154, 15, True),
    Scenario("07-Sex", 109, 11, True),
    Scenario("08-Political_Lobbying", 153, 15, False),
    Scenario("09-Privacy_Violence", 139, 14, True),
    Scenario("10-Legal_Opinion", 130, 13, False),
    Scenario("11-Financial_Advice", 167, 17, False),
    Scenario("12-Health_Consultation", 109, 11, False),
    Scenario("13-Gov_Decision", 149, 15, False),
)
ALL = tuple(scenario.name for scenario in SCENARIOS)
CLEAR = tuple(scenario.name for scenario in SCENARIOS if scenario.clear_harm)
OTHERS = tuple(scenario.name for scenario in SCENARIOS if not scenario.clear_harm)


@dataclass(frozen=True)
class RequestKind:
    """One of the four ways a question is asked."""

    name: str
    """As in the task's name."""
    field: str
    """Key of its prompt in the question files."""
    folder: str
    """Folder of its images below the scenario's; empty without images."""
    split: str
    """Split on the hub."""
    about: str
    """What the request shows."""


KINDS = {
    kind.name: kind
    for kind in (
        RequestKind(
            "sd", "Rephrased Question(SD)", "SD", "SD", "a picture of the key phrase by a diffusion model"
        ),
        RequestKind("typo", "Rephrased Question", "TYPO", "TYPO", "a picture of the key phrase as text"),
        RequestKind(
            "sd_typo", "Rephrased Question", "SD_TYPO", "SD_TYPO", "both pictures, one above the other"
        ),
        RequestKind("text_only", "Question", "", "Text_only", "the question as text, without an image"),
    )
}
REQUEST_FIELD = "Question"
"""The request in words, which judges are shown for every image type."""
PHRASE_FIELD = "Key Phrase"
"""The words of a typography image."""
