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
from urllib.parse import parse_qs

import pytest
from browser import brightness, dump_dom, title, widths_on_a_phone, without_policy
from made import Made, write_rows
from PIL import Image

from shiftdc_eval import cli
from shiftdc_eval.analysis import explain
from shiftdc_eval.board.render.format import clean
from shiftdc_eval.board.viewer.images import Pictures
from shiftdc_eval.board.viewer.page import PLAIN
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
    "{{ 7 * 191 }} {% raw %} ${7 * 191}",
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


def test_hostile_strings_make_no_element_and_no_handler(results: Path, tmp_path: Path) -> None:
    text = view(hostile_run(results), tmp_path / "view.html")
    tags = Tags()
    tags.feed(text)
    names = [tag for tag, _ in tags.found]
    scripts = [attributes.get("type") for tag, attributes in tags.found if tag == "script"]
    assert scripts == ["application/json"] * 3 + [None]
    assert names.count("style") == 1
    assert not {"iframe", "svg", "plaintext", "base", "object"} & set(names)
    assert {attributes["href"][0] for tag, attributes in tags.found if tag == "a"} == {"#"}
    assert sum(tag == "meta" for tag in names) == 4
    for tag, attributes in tags.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert not str(attributes.get("href", "")).startswith("javascript")
        assert "img" not in tag
    assert "1337" not in text


def test_hostile_strings_do_nothing_in_a_browser(results: Path, tmp_path: Path, chromium: str) -> None:
    page = tmp_path / "view.html"
    view(hostile_run(results), page)
    document = dump_dom(chromium, page)
    assert "<title>shiftdc-eval samples</title>" in document
    assert "HACKED</title>" not in document
    assert f"sample 1 of {len(HOSTILE)}" in document  # our own script did run
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
    assert document.count(">answer to figstep_tiny") == 3
    assert '<form id="controls" class="controls" hidden' in document
    assert "Without JavaScript: all samples, without filters." in document
    Made(size=PLAIN + 5).write(results / "more")
    text = view(results / "more", page)
    assert f"Without JavaScript: the first {PLAIN} of {PLAIN + 5} samples, without filters." in text
    assert text.count("<article") == PLAIN


READER = """
const field = (name) => document.querySelector(`[name=${name}]`);
const wait = (time = 20) => new Promise((done) => setTimeout(done, time));
const set = async (name, value) => {
  if (field(name).type === "checkbox") field(name).checked = value; else field(name).value = value;
  field(name).dispatchEvent(new Event("input", { bubbles: true }));
  await wait(name === "words" ? 250 : 20);
};
const press = async (key) => {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  await wait();
};
const at = () => /sample (\\d+) of (\\d+)|no sample/.exec(document.getElementById("shown").textContent)?.[0] ?? "?";
const names = () => [...document.querySelectorAll("article .anchor")].map((one) => one.textContent);
const here = () => document.querySelector("[aria-current] .anchor").textContent;
const note = (name, ...facts) => { seen[name] = facts; };
const seen = {};
document.title = "unfinished";
(async () => { STEPS; document.title = JSON.stringify(seen); })();
"""


def played(chromium: str, page: Path, steps: str) -> dict[str, list[Any]]:
    """What a reader who does these steps notes."""
    document = dump_dom(chromium, without_policy(page, READER.replace("STEPS", steps)))
    found: dict[str, list[Any]] = json.loads(html.unescape(title(document)))
    return found


def two_defenses(results: Path) -> None:
    """30 answers each by `none`, which complies, and `shiftdc`, which refuses every third; a benign task of 2."""
    for defense in ("none", "shiftdc"):
        made = Made(defense=defense, size=30, responses=lambda item, who=defense: f"{who} says {item} <&'\"")
        rows = made.rows()
        for number, one in enumerate(rows):
            verdict = one["shiftdc"]["verdicts"]["keyword_robust"]
            verdict["value"] = "refused" if defense == "shiftdc" and number % 3 == 0 else "complied"
        write_rows(made.write(results), rows)
        Made(task="z_benign", benign=True, defense=defense, size=2, judges={"k": ("refusal", 0.0)}).write(
            results
        )


def test_filters_steps_and_comparisons_work_by_mouse_and_keyboard(
    results: Path, tmp_path: Path, chromium: str
) -> None:
    two_defenses(results)
    page = tmp_path / "view.html"
    view(results, page)
    seen = played(
        chromium,
        page,
        """
        note("all", at(), names().length);
        await set("defense", "shiftdc"); note("defense", at(), location.hash);
        await set("task", "figstep_tiny"); await set("verdict", "good"); note("wanted", at(), names());
        await set("verdict", "bad"); note("failures", at());
        await set("verdict", ""); await set("beside", "none"); note("beside", document.querySelectorAll("h4").length);
        await set("differ", true); note("differ", at(), names(), location.hash);
        await press("j"); await press("ArrowRight"); note("third", at(), here(), document.activeElement.id, location.hash);
        await press("k"); note("second", at());
        for (let n = 0; n < 20; n += 1) await press("j");
        note("last", at());
        document.querySelector("[data-step='-1']").click(); note("button", at());
        await press("/"); note("slash", document.activeElement.name);
        await press("j"); note("typing", at());
        await set("differ", false); await set("beside", ""); await set("defense", ""); await set("task", "");
        await set("words", `NONE says <&'"`); note("words", at());
        await set("words", "div"); note("markup", at());
        await set("words", ""); await set("task", "z_benign"); await set("verdict", "bad"); note("benign", at());
        """,
    )
    every_third = [f"figstep_tiny/{number:05d}" for number in range(0, 30, 3)]
    assert seen["all"] == ["sample 1 of 64", 25]
    assert seen["defense"] == ["sample 1 of 32", "#defense=shiftdc"]
    assert seen["wanted"] == ["sample 1 of 10", every_third]
    assert seen["failures"] == ["sample 1 of 20"]
    assert seen["beside"] == [50]
    assert seen["differ"][:2] == ["sample 1 of 10", every_third]
    assert parse_qs(seen["differ"][2][1:]) == {
        "defense": ["shiftdc"],
        "task": ["figstep_tiny"],
        "beside": ["none"],
        "differ": ["1"],
    }
    assert seen["third"][:2] == ["sample 3 of 10", every_third[2]]
    assert parse_qs(seen["third"][3])["at"] == [seen["third"][2]]
    assert seen["second"] == ["sample 2 of 10"]
    assert seen["last"] == ["sample 10 of 10"]
    assert seen["button"] == ["sample 9 of 10"]
    assert seen["slash"] == ["words"]
    assert seen["typing"] == seen["button"]
    assert seen["words"] == ["sample 1 of 30"]
    assert seen["markup"] == ["no sample"]
    assert seen["benign"] == ["sample 1 of 4"]  # all were refused


def test_an_address_leads_to_filters_and_sample_and_a_button_puts_two_side_by_side(
    results: Path, tmp_path: Path, chromium: str
) -> None:
    two_defenses(results)
    page = tmp_path / "view.html"
    view(results, page)
    seen = played(
        chromium,
        page,
        """
        location.hash = "#defense=none&task=figstep_tiny&words=00028"; await wait();
        note("filters", at(), here(), field("defense").value);
        document.querySelector(".others button").click(); await wait();
        const panes = [...document.querySelectorAll(".answer")].map((one) => one.textContent.split(" ")[0]);
        note("beside", panes, field("beside").value);
        const anchor = document.querySelector(".anchor").href.split("#")[1];
        await set("words", ""); note("cleared", at());
        location.hash = anchor; await wait(); note("anchor", at(), here());
        location.hash = "#" + new URLSearchParams(anchor).get("at"); await wait();
        note("bare", at(), here(), names().length, document.activeElement.tagName);
        location.hash = "#task=absent&at=nowhere"; await wait(); note("unknown", at());
        dispatchEvent(new Event("beforeprint"));
        note("print", names().length, document.getElementById("shown").textContent);
        dispatchEvent(new Event("afterprint")); note("after", names().length, at());
        """,
    )
    assert seen["filters"] == ["sample 1 of 1", "figstep_tiny/00028", "none"]
    assert seen["beside"] == [["none", "shiftdc"], "shiftdc"]
    assert seen["cleared"] == ["sample 1 of 30"]
    assert seen["anchor"] == ["sample 1 of 1", "figstep_tiny/00028"]
    assert seen["bare"] == ["sample 29 of 64", "figstep_tiny/00028", 25, "ARTICLE"]
    assert seen["unknown"] == ["sample 1 of 64"]
    assert seen["print"] == [64, "64 of 64 samples are printed"]
    assert seen["after"] == [25, "sample 1 of 64"]


def test_many_samples_are_shown_a_page_at_a_time(results: Path, tmp_path: Path, chromium: str) -> None:
    for defense in ("none", "shiftdc", "ecso"):
        Made(defense=defense, size=1000, responses=lambda item: f"answer to {item} " * 20).write(results)
    page = tmp_path / "view.html"
    view(results, page)
    seen = played(
        chromium,
        page,
        """
        note("first", at(), names().length, document.querySelectorAll("*").length < 3000);
        for (let n = 0; n < 26; n += 1) await press("j");
        note("next page", at(), names().length, names()[0]);
        await set("words", "00999"); note("words", at());
        """,
    )
    assert seen == {
        "first": ["sample 1 of 3000", 25, True],
        "next page": ["sample 27 of 3000", 25, "figstep_tiny/00025"],
        "words": ["sample 1 of 3"],
    }


def test_a_run_of_one_defense_needs_no_choices(results: Path, tmp_path: Path, chromium: str) -> None:
    Made(size=2).write(results)
    page = tmp_path / "view.html"
    view(results, page)
    seen = played(
        chromium, page, 'await set("verdict", "none"); note("x", at(), !field("beside"), !field("differ"))'
    )
    assert seen == {"x": ["no sample", True, True]}


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
