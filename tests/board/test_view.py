"""The page to read samples: complete, and inert whatever the model wrote."""

from __future__ import annotations

import argparse
import html
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import brightness, dump_dom, widths_on_a_phone
from made import Made, write_rows
from PIL import Image

from shiftdc_eval import cli
from shiftdc_eval.analysis import explain
from shiftdc_eval.board.render.format import clean
from shiftdc_eval.board.viewer.images import Pictures
from shiftdc_eval.core.hashing import image_sha256

HOSTILE = [
    "<script>document.title='HACKED'</script>",
    "</script><script>document.title='HACKED'</script>",
    "<img src=x onerror=\"document.title='HACKED'\">",
    "<svg onload=\"document.title='HACKED'\"></svg>",
    "</div></article><script>document.title='HACKED'</script>",
    '"><body onload="document.title=\'HACKED\'">',
    '<a href="javascript:document.title=\'HACKED\'" id="bait">click</a>',
    "<iframe srcdoc=\"<script>parent.document.title='HACKED'</script>\"></iframe>",
    "<style>* { display: none }</style>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "<!-- <plaintext> ]]> &lt;script&gt;",
    "' onmouseover=document.title='HACKED' x='",
    "<meta http-equiv=refresh content='0;url=data:text/html,HACKED'>",
    "broken \ud800 surrogate, null \x00, bell \x07, escape \x1b[31m",
    "reversed \u202e txet \u2066 never closed",
    "e\u0301\u0301\u0301 \U0001f468\u200d\U0001f469 \ufeff \u0000 \uffff",
]


class Tags(HTMLParser):
    """Collects elements and the handlers they carry."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def hostile_run(results: Path) -> Path:
    """A run in which every string that comes from data is hostile."""
    made = Made(size=len(HOSTILE), judges={"keyword": ("refusal", 0.5), "llm": ("harm", 0.5)})
    samples = made.write(results)
    rows: list[dict[str, Any]] = made.rows()
    for row, text in zip(rows, HOSTILE, strict=True):
        row["shiftdc_item"] = dict.fromkeys(("request", "prompt", "response", "scenario", "reference"), text)
        row["input_media"] = [text, "javascript:alert(1)", "data:text/html;base64,PHNjcmlwdD4="]
        row["shiftdc"]["item"] += json.dumps(text)
        row["shiftdc"]["groups"] = {"topic": text}
        row["shiftdc"]["flags"] = [text]
        row["shiftdc"]["verdicts"]["llm"]["reason"] = text
        row["shiftdc"]["verdicts"][text] = row["shiftdc"]["verdicts"].pop("llm")
    write_rows(samples, rows)
    return results


def view(results: Path, page: Path, *options: str) -> str:
    assert cli.main(["view", str(results), "-o", str(page), *options]) == 0
    return page.read_text(encoding="utf-8")


def test_everything_about_a_sample_is_on_the_page(results: Path, tmp_path: Path) -> None:
    made = Made(size=3, judges={"keyword": ("refusal", 0.5)}, unscored={"keyword": [1]})
    made.write(results)
    text = view(results, tmp_path / "view.html")
    for sample in made.samples():
        for wanted in (sample.item, f"request of {sample.item}", f"answer to {sample.item}", "topic 1"):
            assert wanted in text
    assert "no reply: made up" in text
    assert "unscored" in text


def test_each_run_is_headed_by_its_defense_and_model(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Made(defense="ecso", settings={"gate": "hidden_detect"}, size=2).write(results)
    Made(defense="cmrm", size=2).write(results)
    text = view(results, tmp_path / "view.html")
    assert "ecso, gated by hidden_detect on org/tiny-vlm; 2 samples" in text
    assert "cmrm on org/tiny-vlm; 2 samples" in text
    assert "4 samples of 1 task in 2 files" in capsys.readouterr().out
    for record in results.rglob("run-*.json"):
        record.unlink()
    assert 'figstep_tiny <span class="soft">2 samples' in view(results, tmp_path / "view.html")


def test_hostile_strings_make_no_element_and_no_handler(results: Path, tmp_path: Path) -> None:
    text = view(hostile_run(results), tmp_path / "view.html")
    tags = Tags()
    tags.feed(text)
    names = [tag for tag, _ in tags.found]
    assert names.count("script") == 1
    assert names.count("style") == 1
    assert not {"iframe", "svg", "plaintext", "base", "object"} & set(names)
    assert names.count("a") == 1
    assert sum(tag == "meta" for tag in names) == 4
    for tag, attributes in tags.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert not str(attributes.get("href", "")).startswith("javascript")
        assert "img" not in tag
    assert text.count("49") == 0


def test_hostile_strings_do_nothing_in_a_browser(results: Path, tmp_path: Path, chromium: str) -> None:
    page = tmp_path / "view.html"
    view(hostile_run(results), page)
    document = dump_dom(chromium, page)
    assert "<title>shiftdc-eval samples</title>" in document
    assert "HACKED</title>" not in document
    assert f"{len(HOSTILE)} samples shown" in document  # our own script did run
    assert document.count("<article") == len(HOSTILE)


def test_the_policy_stops_scripts_even_where_escaping_would_fail(
    results: Path, tmp_path: Path, chromium: str
) -> None:
    page = tmp_path / "view.html"
    text = view(hostile_run(results), page)
    attack = "<script>document.title='HACKED'</script><img src=x onerror=\"document.title='HACKED'\">"
    page.write_text(text.replace("</main>", f"{attack}</main>"), encoding="utf-8")
    assert "HACKED</title>" not in dump_dom(chromium, page)
    unguarded = text.replace("Content-Security-Policy", "X-Nothing").replace("</main>", f"{attack}</main>")
    page.write_text(unguarded, encoding="utf-8")
    assert "HACKED</title>" in dump_dom(chromium, page)  # the attack itself works


def test_a_phone_shows_the_samples_without_scrolling_sideways(
    results: Path, tmp_path: Path, chromium: str
) -> None:
    made = Made(size=len(HOSTILE), responses=lambda item: "word" * 200)
    made.write(results / "long")
    page = tmp_path / "view.html"
    for folder in (results / "long", hostile_run(results / "hostile")):
        view(folder, page)
        width, wide = widths_on_a_phone(chromium, page)
        assert width == 390
        assert wide <= width


def test_the_samples_can_be_read_in_light_and_in_dark(results: Path, tmp_path: Path, chromium: str) -> None:
    Made(size=5).write(results)
    page = tmp_path / "view.html"
    view(results, page)
    light, dark = brightness(chromium, page, tmp_path)
    assert light > 200
    assert dark < 70


def test_samples_can_be_read_without_javascript(results: Path, tmp_path: Path, chromium: str) -> None:
    Made(size=3).write(results)
    page = tmp_path / "view.html"
    text = view(results, page)
    page.write_text(text[: text.rindex("<script>")], encoding="utf-8")
    document = dump_dom(chromium, page)
    assert document.count("answer to figstep_tiny") == 3
    assert '<form id="controls" class="controls" hidden' in document


def test_disagreement_and_missing_verdicts_are_marked_for_the_filter(results: Path, tmp_path: Path) -> None:
    made = Made(size=2, judges={"a": ("refusal", 0.5), "b": ("harm", 0.5)})
    samples = made.write(results)
    rows = made.rows()
    verdicts = [row["shiftdc"]["verdicts"] for row in rows]
    verdicts[0]["a"]["value"], verdicts[0]["b"]["value"] = "complied", "safe"
    verdicts[1]["a"]["value"], verdicts[1]["b"]["value"] = "refused", None
    write_rows(samples, rows)
    text = view(results, tmp_path / "view.html")
    assert text.count('<article class="split ">') == 1
    assert text.count('<article class="unscored">') == 1
    assert "1 on which judges disagree" in text


def test_images_are_linked_embedded_or_left_out(results: Path, tmp_path: Path) -> None:
    image = results / "a picture.png"
    made = Made(size=1)
    results.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(image)
    samples = made.write(results)
    rows = made.rows()
    rows[0]["input_media"] = [str(image)]
    write_rows(samples, rows)
    page = tmp_path / "view.html"
    assert '<img src="results/a%20picture.png"' in view(results, page)
    assert '<img src="data:image/png;base64,' in view(results, page, "--images", "embed")
    assert "<img" not in view(results, page, "--images", "none")


def test_only_real_images_inside_the_folders_are_embedded(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(size=1)
    samples = made.write(results)
    rows = made.rows()
    outside = tmp_path / "outside.png"
    Image.new("RGB", (4, 4), "red").save(outside)
    (results / "notes.png").write_text("a text under the name of an image")
    (results / "link.png").symlink_to(outside)
    (results / "torn.png").write_bytes(outside.read_bytes()[:30])
    names = [
        outside,
        results / ".." / "outside.png",
        *(results / f"{n}.png" for n in ("notes", "link", "torn")),
    ]
    rows[0]["input_media"] = list(map(str, names))
    write_rows(samples, rows)
    page = tmp_path / "view.html"
    assert "<img" not in view(results, page, "--images", "embed")
    assert "5 images left out" in capsys.readouterr().err
    text = view(results, page, "--images", "embed", "--image-dir", str(tmp_path))
    assert (
        text.count('<img src="data:image/png;base64,') == 3
    )  # the two names of the outside one, and the link


def test_a_folder_for_a_page_is_one_line(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Made(size=1).write(results)
    assert cli.main(["view", str(results), "-o", str(tmp_path)]) == 2
    assert f"{tmp_path}: cannot be written: a folder stands there; name a file" in capsys.readouterr().err


def test_images_are_found_by_the_hash_of_their_pixels(results: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "broken.png").write_text("no image")
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (4, 4), colour).save(images / f"{colour}.png")
    made = Made(size=2)
    samples = made.write(results)
    rows = made.rows()
    rows[0]["shiftdc"]["image_sha256"] = [image_sha256(Image.new("RGB", (4, 4), "green"))]
    write_rows(samples, rows)
    text = view(results, tmp_path / "view.html", "--image-dir", str(images))
    assert text.count("<img") == 1
    assert '<img src="images/green.png"' in text


@pytest.mark.parametrize(
    "source",
    [
        "javascript:alert(1)",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/svg+xml;base64,PHN2Zz4=",
        'data:image/png;base64,AA" onerror="x',
        "/etc/passwd",
        "https://example.org/x.png",
        "nul\x00.png",
        "x" * 5000 + ".png",
    ],
)
def test_only_pictures_are_shown(source: str, tmp_path: Path) -> None:
    assert Pictures("embed", tmp_path).address(source) == ""


def test_a_sample_names_the_command_that_explains_it_until_that_was_run(
    results: Path, tmp_path: Path
) -> None:
    made = Made(size=2, run="r1")
    samples = made.write(results)
    page = tmp_path / "view.html"
    text = html.unescape(view(results, page))
    folder = tmp_path / "view-explain" / "r1"
    commands = re.findall(r"<code>(shiftdc-eval explain .*?)</code>", text)
    wanted = [
        ["shiftdc-eval", "explain", str(samples), item, "-o", str(folder / f"{item.replace('/', '__')}.html")]
        for item in ("figstep_tiny/00000", "figstep_tiny/00001")
    ]
    assert [shlex.split(command) for command in commands] == wanted
    verb, arguments = wanted[0][1], wanted[0][2:]
    parser = argparse.ArgumentParser()
    explain.configure(parser)
    given = parser.parse_args(arguments)
    assert verb in cli.VERBS
    assert explain.find(given.run, given.sample).record.id == "r1"
    folder.mkdir(parents=True)
    given.out.write_text("made")
    text = view(results, page)
    assert text.count("<code>shiftdc-eval explain") == 1
    (link,) = re.findall(r'<a href="(view-explain/.*?)">', text)
    assert (tmp_path / link).read_text() == "made"


@pytest.mark.parametrize("change", [{"run": None}, {"image_sha256": []}, {"item": "figstep/\u202e1"}])
def test_what_cannot_be_explained_has_no_command(
    results: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    made = Made(size=1)
    samples = made.write(results)
    rows = made.rows()
    rows[0]["shiftdc"] |= change
    write_rows(samples, rows)
    assert "shiftdc-eval explain" not in view(results, tmp_path / "view.html")


def test_text_that_no_page_may_hold_is_replaced() -> None:
    assert clean("a\x00b\ud800c\x1bd\te\nf") == "a\ufffdb\ufffdc\ufffdd\te\nf"
    clean("".join(map(chr, range(0xD800, 0xE000)))).encode("utf-8")


def test_a_folder_without_our_rows_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = Made().write(results)
    write_rows(samples, [{"doc_id": 1}])
    assert cli.main(["view", str(results), "-o", str(tmp_path / "view.html")]) == 2
    assert "no sample row holds the field `shiftdc`" in capsys.readouterr().err
