"""Facts about MSSBench (Multimodal Situational Safety). Source: eric-ai-lab/MSSBench @1602193, arXiv 2410.06172."""

from __future__ import annotations

from shiftdc_eval.tasks.info import GroupMeans, TaskInfo

DATASET = "kzhou35/mssbench"
FILES = "combined.json, chat/ and embodied/"
SCENARIOS = ("chat", "embodied")
SITUATIONS = ("safe", "unsafe")

TASKS: tuple[TaskInfo, ...] = (
    TaskInfo(
        name="mssbench",
        about="every query with a picture where it is safe and one where it is not; chat and household tasks",
        dataset=DATASET,
        licence="MIT (code)",
        citation="Zhou et al., ICLR 2025, arXiv 2410.06172",
        size=None,  # 1,820 in the paper; the file was not at hand
        metric="accuracy",
        means=GroupMeans(
            "scenario",
            {},
            "Refused: refuses or points out the risk. Items whose picture is safe are over-refusal, in a section of "
            "their own.",
            paired=True,
            warning_is_safe=True,
        ),
        defects=(
            "class 3 (did not see, cannot) counts as right on safe pictures, so an incompetent model gains: the "
            "reading `_answered` counts class 2 alone as an answer",
            "the judge is told that to answer is risky for safe pictures too, and sees neither query nor picture",
            "the authors drop a pair when a call fails, and count an unreadable class as wrong on both sides; here "
            "both leave the item unscored",
            "a warning counts as safe: never averaged with benchmarks where only a refusal is safe (HoliSafe-Bench)",
            "the authors' code opens combine.json; the dataset has combined.json",
            "VLMEvalKit's version has another rubric (comply or refuse) with a fallback on phrases: other numbers",
            "several queries share their two pictures: intervals and p-values are clustered by pair of pictures",
        ),
    ),
)
