"""What the page of samples says of an answer: who gave it, what was wanted, what the defense did, which words count."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from made import Made, write_rows
from PIL import Image
from sample_page import blocks, fragments

from shiftdc_eval import cli
from shiftdc_eval.analysis import items
from shiftdc_eval.analysis.view import drawn
from shiftdc_eval.board.viewer.images import Pictures
from shiftdc_eval.board.viewer.marks import pieces
from shiftdc_eval.board.viewer.samples import Part, read_parts
from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import image_sha256
from shiftdc_eval.judges.keyword import keyword_judge
from shiftdc_eval.judges.verdict import Item


def read(results: Path, folder: Path, **pictures: Any) -> list[Part]:
    return read_parts([results], Pictures("link", folder, **pictures), 1000)


def test_runs_are_told_apart_by_model_defense_and_the_settings_that_differ(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common: dict[str, Any] = {"size": 2, "settings": {"alpha": 1.0, "layers": "4-7"}}
    for task in ("figstep_tiny", "figstep_benign"):
        Made(task=task, **common).write(results / "none")
        Made(task=task, defense="shiftdc", **common).write(results / "one")
        half = {"alpha": 0.5, "layers": "4-7"}
        Made(task=task, defense="shiftdc", **common | {"settings": half}).write(results / "half")
        Made(task=task, defense="shiftdc", model="org/other", **common).write(results / "other")
        Made(task=task, defense="ecso", **common | {"settings": {"gate": "hidden_detect"}}).write(results)
    found = {(part.run.model, part.defense) for part in read(results, tmp_path)}
    assert found == {
        ("org/tiny-vlm", "none"),
        ("org/tiny-vlm", "shiftdc (alpha=1.0)"),
        ("org/tiny-vlm", "shiftdc (alpha=0.5)"),
        ("org/tiny-vlm", "ecso, gated by hidden_detect"),
        ("org/other", "shiftdc"),
    }
    page = tmp_path / "view.html"
    assert cli.main(["view", str(results), "-o", str(page)]) == 0
    assert "20 answers to 4 items of 2 tasks: 2 models, 5 defenses" in capsys.readouterr().out
    links = re.findall(r'<tr><td><bdi>.*?<a href="#(.*?)">', page.read_text())
    assert len(links) == 10
    wanted = {"task": ["figstep_tiny"], "model": ["org/tiny-vlm"], "defense": ["shiftdc (alpha=0.5)"]}
    assert wanted in [parse_qs(html.unescape(link)) for link in links]


def test_the_same_run_twice_is_two_runs_and_the_same_row_twice_is_one(results: Path, tmp_path: Path) -> None:
    made = Made(size=2, run="r1")
    samples = made.write(results)
    write_rows(samples, made.rows() * 2)
    (results / "copy").mkdir()
    (results / "copy" / samples.name).write_bytes(samples.read_bytes())
    Made(size=2, run="r2", date="20261125_120000").write(results)
    parts = read(results, tmp_path)
    found = [(part.defense, len(part.samples)) for part in parts]
    assert found == [("none", 2), ("none, run 2", 2), ("none, run 3", 2)]
    keys = [sample.key for part in parts for sample in part.samples]
    assert len(set(keys)) == 6
    assert keys == [sample.key for part in read(results, tmp_path) for sample in part.samples]


def test_another_models_answers_are_named_by_their_folder(results: Path, tmp_path: Path) -> None:
    Made(size=1, run=None, benign=True, judges={"k": ("refusal", 1.0)}).write(results)
    [part] = read(results, tmp_path)
    assert (part.run.model, part.defense) == ("org/tiny-vlm", "none (another model of lmms-eval)")
    assert part.samples[0].verdicts[0].tone == "good"  # complied, and the results file says that it is benign
    Made(size=1, run="gone").write(results / "gone")
    for record in (results / "gone").rglob("run-*.json"):
        record.unlink()
    assert read(results / "gone", tmp_path)[0].defense == "not known: no run record"


@pytest.mark.parametrize(
    ("kind", "value", "harmful", "benign", "utility"),
    [
        ("refusal", "refused", "good", "bad", "bad"),
        ("refusal", "complied", "bad", "good", "good"),
        ("harm", "unsafe", "bad", "bad", "bad"),
        ("harm", "safe", "good", "good", "good"),
        ("score", 0.0, "score", "score", "bad"),
        ("score", 0.4, "score", "score", "score"),
        ("score", 1.0, "score", "score", "good"),
        ("harm", None, "none", "none", "none"),
    ],
)
def test_a_verdict_is_coloured_by_what_is_wanted(
    results: Path, tmp_path: Path, kind: str, value: Any, harmful: str, benign: str, utility: str
) -> None:
    for task, facts in (("a", {}), ("b", {"benign": True}), ("c", {"utility": True})):
        made = Made(task=task, size=1, judges={"j": (kind, 0.5)}, **facts)
        rows = made.rows()
        rows[0]["shiftdc"]["verdicts"]["j"]["value"] = value
        write_rows(made.write(results), rows)
    found = [part.samples[0].verdicts[0].tone for part in read(results, tmp_path)]
    assert found == [harmful, benign, utility]


def test_a_benign_item_of_a_harmful_task_fails_by_a_refusal(results: Path, tmp_path: Path) -> None:
    made = Made(size=2, judges={"j": ("refusal", 0.0)})
    rows = made.rows()
    rows[1]["shiftdc"]["flags"] = ["benign"]
    write_rows(made.write(results), rows)
    [part] = read(results, tmp_path)
    assert [sample.verdicts[0].tone for sample in part.samples] == ["good", "bad"]
    assert part.tally() == [("j", 1, 2, 0)]


def journal(made: Made, folder: Path, name: str, **changes: Any) -> None:
    """A journal as the adapter writes it, with a caption for each answer."""
    record = made.record()
    config = {name: getattr(record, name) for name in ("defense", "revision", "dtype", "seed", "settings")}
    lines: list[dict[str, Any]] = [{"journal": 1, "config": config | changes.pop("config", {})}]
    for number, row in enumerate(made.rows()):
        line = {"task": made.task, "doc_id": number, "repeat": 0, "text": row["shiftdc_item"]["response"]}
        told = {
            "notes": ["not_applicable"],
            "extra": {"caption": f"{name} {number}", "score": 0.123456789, "kinds": {"a": 1}},
        }
        lines.append({"key": str(number), **line, **told, **changes})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"journal-{name}.rank0.jsonl").write_text(text + '{"torn', encoding="utf-8")


def test_what_the_defense_did_comes_from_row_and_journal(results: Path, tmp_path: Path) -> None:
    made = Made(defense="shiftdc", size=2, settings={"alpha": 1.0})
    rows = made.rows()
    rows[1]["shiftdc"] |= {"detector_score": 0.25, "begun": "Sure, ", "reasoning": ["<think>"]}
    write_rows(made.write(results), rows)
    for number, change in enumerate(
        ({"defense": "cmrm"}, {"seed": 7}, {"settings": {"alpha": 2.0}}, {"revision": "x"})
    ):
        journal(made, results, f"other{number}", config=change)
    journal(made, results, "other-text", text="an answer of another run")
    journal(made, results, "first")
    journal(Made(task="another"), results, "task")
    [part] = read(results, tmp_path)
    journalled = {"score": "0.123457", "kinds": '{"a": 1}', "notes": "not_applicable"}
    assert dict(part.samples[0].did) == {"caption": "first 0", **journalled}
    assert dict(part.samples[1].did) == {
        "begun": "Sure, ",
        "detector score": "0.25",
        "reasoning taken off before judging": "<think>",
        "caption": "first 1",
        **journalled,
    }


@pytest.mark.parametrize(
    ("judge", "response", "words"),
    [
        ("shiftdc", "Well. I'm sorry, but no.", ["I'm sorry"]),
        ("gcg", "Hm. As an AI I say no", ["As an"]),
        ("robust", "I\u2019m   SORRY, but I  cannot **help** with that.", ["I  cannot **help"]),
        ("robust", "That is a topic. However, I **can\u2019t** help with it.", ["I **can\u2019t** help"]),
        ("multilingual", "Je ne peux pas t\u2019aider.", ["Je ne peux pas"]),
        ("robust", "Here is a list: 1. rice", []),
    ],
)
def test_the_words_that_a_keyword_judge_found_are_marked(judge: str, response: str, words: list[str]) -> None:
    [verdict] = keyword_judge(judge).judge([Item(id="i", request="r", response=response)])
    assert (verdict.value == "refused") == bool(words)
    found = pieces(response, [verdict.reason])
    assert "".join(found) == response
    assert found[1::2] == words


@pytest.mark.parametrize(
    ("reasons", "begun", "wanted"),
    [
        (["at the start: 'no'"], "", ["now ", "no", ". No!"]),
        (['later in the answer: "je ne peux pas t\'aider" (fr)'], "", ["", "Je ne peux pas t'aider"]),
        (["later in the answer: 'i cannot'"], "", ["", "I cannot", ". ", "I cannot", "."]),
        (["keyword 'I cannot'"], "I cannot.", ["I cannot. ", "I cannot", "."]),
        (["keyword 'etat'"], "", ["l'", "e\u0301tat"]),
        (["keyword '不能'"], "", ["我", "不能", "帮你"]),
        (["keyword 'abc'", "later in the answer: denial: 'abc abd'"], "", ["", "abc abd"]),
        (["no keyword found", "keyword 'unclosed", "keyword '\\x'", "keyword '...'"], "", ["text"]),
        (["keyword 'x'"], "", []),
    ],
)
def test_marks_stand_where_the_phrase_is(reasons: list[str], begun: str, wanted: list[str]) -> None:
    assert pieces("".join(wanted), reasons, begun) == wanted


def test_marked_words_and_replies_of_judges_are_on_the_page(results: Path, tmp_path: Path) -> None:
    made = Made(size=1, judges={"j": ("refusal", 0.0)}, responses=lambda item: "I cannot <do> that")
    rows = made.rows()
    rows[0]["shiftdc"]["verdicts"]["j"] |= {
        "reason": "keyword 'cannot <do>'",
        "raw": "score: 5",
        "model": "gpt",
    }
    write_rows(made.write(results), rows)
    page = tmp_path / "view.html"
    assert cli.main(["view", str(results), "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    wanted = "I <mark>cannot &lt;do</mark>&gt; that"
    [(_, _, answer)] = fragments(text)
    assert wanted in answer
    assert wanted in text[: text.index("</main>")]
    assert "score: 5" in answer
    assert "(<bdi>gpt</bdi>)" in answer
    assert "<do>" not in text
    assert blocks(text)["index"][0]["judges"] == {"j": [["good", "refused"]]}


def picture(path: Path, colour: str) -> str:
    """An image file, and the hash of its pixels."""
    image = Image.new("RGB", (5, 3), colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return image_sha256(image)


def with_images(results: Path, hashes: list[str]) -> None:
    made = Made(task="figstep_tiny", size=len(hashes))
    rows = made.rows()
    for row, digest in zip(rows, hashes, strict=True):
        row["shiftdc"]["image_sha256"] = [digest]
    write_rows(made.write(results), rows)


def test_images_are_found_in_the_benchmarks_own_folder(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    red = picture(data / "figstep" / "images" / "red.png", "red")
    blue = picture(data / "mossbench" / "blue.png", "blue")
    with_images(results, [red, blue])
    monkeypatch.setenv("SHIFTDC_DATA", str(data))
    page = tmp_path / "view.html"
    assert cli.main(["view", str(results), "-o", str(page)]) == 0
    assert re.findall(r'<img src="(.*?)"', page.read_text()) == ["data/figstep/images/red.png"]
    assert "1 samples without their image: set SHIFTDC_DATA" in capsys.readouterr().err
    assert "1 image not found here" in page.read_text()
    assert cli.main(["view", str(results), "-o", str(page), "--images", "embed"]) == 0
    assert page.read_text().count('<img src="data:image/png;base64,') == 1


def test_images_that_tasks_draw_are_kept_beside_the_page(results: Path, tmp_path: Path) -> None:
    images = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue", "white")]
    with_images(results, [image_sha256(images[2]), image_sha256(images[0]), "0" * 64])
    asked: list[str] = []

    def draw(task: str) -> list[Image.Image]:
        asked.append(task)
        return images

    for _ in range(2):  # the second time they are there
        [part] = read(results, tmp_path, drawn=tmp_path / "kept", draw=draw)
        found = [sample.images for sample in part.samples]
        assert [len(one) for one in found] == [1, 1, 0]
        assert [part.samples[n].unseen for n in range(3)] == [0, 0, 1]
        for (address,), image in zip(found[:2], (images[2], images[0]), strict=True):
            assert Image.open(tmp_path / address).tobytes() == image.tobytes()
    assert asked == ["figstep_tiny"] * 2


def test_a_task_that_is_not_here_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise DataError("no data")

    monkeypatch.setattr(items, "load_task", missing)
    assert list(drawn("figstep")) == []
