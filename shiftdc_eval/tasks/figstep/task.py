"""FigStep and its benign twin.

Source: ThuCCSLab/FigStep @0861b17 (MIT), arXiv 2311.05608.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.example import RENDERED, Example, Source
from shiftdc_eval.tasks.figstep import facts, files
from shiftdc_eval.tasks.figstep.files import PROMPT
from shiftdc_eval.tasks.figstep.render import described, render
from shiftdc_eval.tasks.figstep.twins import FONT, TEXTS, twins
from shiftdc_eval.tasks.fonts import FREE_MONO_BOLD, described_font, find_font, rendered_notes
from shiftdc_eval.tasks.safety import SafetyTask


class FigStep(SafetyTask):
    """`figstep` and, with `subset: tiny`, `figstep_tiny`."""

    infos = facts.TASKS
    group: ClassVar[str] = "topic"
    clear_parts: ClassVar[tuple[str, ...]] = facts.CLEAR_HARM_TOPICS

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.name, self.settings)


class FigStepBenign(SafetyTask):
    """`figstep_benign`: benign instructions written for this package, drawn in the same style."""

    infos = facts.TASKS

    def load(self) -> Source:
        """The packaged instructions and images; with `SHIFTDC_FONT` the images are drawn with that font.

        Raises:
            DataError: `SHIFTDC_FONT` names no font.
        """
        font = find_font(FREE_MONO_BOLD) if setting("SHIFTDC_FONT") else None
        examples = [
            Example(
                id=f"figstep_benign/{twin.number}",
                question=f"figstep_benign/{twin.number}",
                prompt=PROMPT,
                request=twin.instruction,
                scenario=twin.scenario,
                groups={"topic": twin.scenario},
                flags=(RENDERED,),
                image=partial(render, twin.instruction, font) if font else twin.image,
                image_text=described(twin.instruction),
            )
            for twin in twins()
        ]
        notes = rendered_notes(examples, described_font(font, FREE_MONO_BOLD) if font else FONT)
        return Source(examples, self.info.dataset, f"sha256:{file_sha256(TEXTS)}", notes)
