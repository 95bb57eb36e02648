"""Facts about JailBreakV-28K. Source: hub JailbreakV-28K/JailBreakV-28k, arXiv 2404.03027."""

from __future__ import annotations

from shiftdc_eval.tasks.info import GroupMeans, TaskInfo

DATASET = "JailbreakV-28K/JailBreakV-28k"
REVISION = "f949ca582fff13d396ac8fce59596afafb2b78d3"
FILES = "mini_JailBreakV_28K.csv and its images (figstep/, llm_transfer_attack/, query_related/)"
TEXT, IMAGE = "text transfer", "image"
"""Where the attack is: a jailbreak text for language models beside any image, or the image itself."""

TASKS: tuple[TaskInfo, ...] = (
    TaskInfo(
        name="jailbreakv_mini",
        about="jailbreak prompts with an image: texts that transfer from language models, and attacks in the image",
        dataset=DATASET,
        revision=REVISION,
        licence="MIT",
        citation="Luo et al., COLM 2024, arXiv 2404.03027",
        size=280,
        metric="asr",
        means=GroupMeans(
            "attack",
            {"attacks in the image": (IMAGE,), "attacks in the text": (TEXT,)},
            "Text-transfer attacks carry the harm in the text and show any image: they do not test what an image "
            "changes.",
        ),
        defects=(
            "the hub holds a part of the images (all: a zip of about 15 GiB by the authors' form): an item without its "
            "image is left out, and rates over the incomplete set are N/A",
            "text-transfer attacks show an unrelated, blank or noise image: they do not test the image's shift; "
            "`attack` separates them",
            "no item is benign: a defense that refuses everything is perfect; read it beside a benign set",
            "the judge sees the jailbreak text and the answer, not the image: of a harmful request in the image it "
            "sees the answer alone",
        ),
    ),
)
