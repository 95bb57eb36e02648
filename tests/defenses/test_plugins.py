"""Defenses that other installed packages bring: found, told apart, refused in one line, and named in the record."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hand_made_requests import through_the_adapter
from PIL import Image

from shiftdc_eval.backbones import Chat, ModelSpec, load_backbone
from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.records import RunRecord
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.defenses.registry import BUILT_IN, Registry
from shiftdc_eval.grid.file import read_grid
from shiftdc_eval.grid.passes import Size, passes
from shiftdc_eval.grid.plan import checked
from shiftdc_eval.plugin.arguments import split_arguments
from shiftdc_eval.plugin.doctor import check_defenses

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "example_plugin"
BODY = (EXAMPLE / "shiftdc_polite" / "defense.py").read_text()
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one module and its entry points on the path."""

    def put(distribution: str, module: str, code: str, version: str = "1.2", **entries: str) -> None:
        folder = tmp_path / distribution
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {module}:{what}" for name, what in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[shiftdc_eval.defenses]", *lines, ""]))
        monkeypatch.syspath_prepend(str(folder))
        vars(DEFENSES).pop("_plugged", None)

    before = set(sys.modules)
    yield put
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]
    monkeypatch.undo()
    vars(DEFENSES).pop("_plugged", None)


def test_without_plugins_the_defenses_are_this_package_s_own() -> None:
    registry = Registry(BUILT_IN)
    assert list(registry) == list(BUILT_IN)
    registry["shiftdc"] = registry.pop("shiftdc")
    assert list(registry) == list(BUILT_IN), (
        "names are listed in one order, whatever was taken out and put back"
    )
    assert {name: Registry(BUILT_IN).distribution(name) for name in BUILT_IN} == dict.fromkeys(BUILT_IN, "")


def test_listing_and_choosing_another_defense_import_nothing_of_a_plugin(install: Install) -> None:
    install("pkg-polite", "plug_polite", BODY, polite="Polite")
    assert "polite" in DEFENSES
    assert list(DEFENSES) == [*BUILT_IN, "polite"]
    assert len(DEFENSES) == len(BUILT_IN) + 1
    split_arguments({"defense": "shiftdc", "alpha": "1"})
    with pytest.raises(ConfigError, match="did you mean polite"):
        split_arguments({"defense": "polit"})
    assert "plug_polite" not in sys.modules
    assert DEFENSES["polite"].name == "polite"
    assert "plug_polite" in sys.modules
    assert DEFENSES.distribution("polite") == "pkg-polite 1.2"


def test_its_settings_are_model_arguments(install: Install) -> None:
    install("pkg-polite", "plug_polite", BODY, polite="Polite")
    assert split_arguments({"defense": "polite", "prefix": "x"})[1] == {"prefix": "x"}
    with pytest.raises(ConfigError, match="unknown model argument prefx; did you mean prefix"):
        split_arguments({"defense": "polite", "prefx": "x"})


def test_grids_and_sweeps_take_it_with_its_settings(install: Install, tmp_path: Path) -> None:
    install("pkg-polite", "plug_polite", BODY, polite="Polite")
    path = tmp_path / "grid.yaml"
    text = "models: [toy]\ndefenses: [{name: polite, %s: now}]\ntasks: [toy_figstep]\n"
    path.write_text(text % "prefix")
    (cell,) = checked(list(read_grid(path).cells()))
    counted = [(one.kind, one.count) for one in passes(cell, Size(shown=3, plain=0))]
    assert counted == [("answers", 3)]
    path.write_text(text % "prefx")
    with pytest.raises(ConfigError, match="unknown model argument prefx; did you mean prefix"):
        checked(list(read_grid(path).cells()))


def test_doctor_runs_it_and_goes_on_after_a_broken_one(install: Install, tiny_llava: Path) -> None:
    install("pkg-broken", "plug_broken", "1 / 0", broken="Polite")
    install("pkg-polite", "plug_polite", BODY, polite="Polite")
    assert {"broken", "polite"} < set(DEFENSES)
    checked = check_defenses(load_backbone(ModelSpec(str(tiny_llava))), ["none", "broken", "polite"])
    found = {one.name: one.problem for one in checked}
    assert found.pop("broken").startswith(
        "FAILED: defense=broken of pkg-broken 1.2 (plug_broken:Polite) cannot"
    )
    assert found == {"none": "", "polite": ""}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_package_anywhere", "cannot be imported: ModuleNotFoundError: No module named"),
        ("raise SyntaxError('two\\nlines')", "cannot be imported: SyntaxError: two"),
        ("x = 1", "cannot be imported: AttributeError"),
        ("class Polite:\n    name = 'polite'", "is no class of shiftdc_eval.defenses.Settings"),
        (BODY.replace('= "polite"', '= "other"'), "needs `name: ClassVar[str] = 'polite'`"),
        (BODY.replace("def answer(", "def answers("), "with a method `answer`"),
    ],
)
def test_a_broken_plugin_is_one_line_and_the_others_work(
    install: Install, code: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install("pkg-broken", "plug_broken", code, polite="Polite")
    with pytest.raises(ConfigError, match="defense=polite of pkg-broken 1.2") as caught:
        DEFENSES["polite"]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [DEFENSES[name].name for name in BUILT_IN] == list(BUILT_IN)
    assert main(["defenses"]) == 0
    table = capsys.readouterr().out
    assert {"pkg-broken", "adashield_s"} <= set(table.split())


def test_a_name_of_ours_is_refused_to_a_plugin(install: Install) -> None:
    install("pkg-clash", "plug_clash", BODY, shiftdc="Polite", polite="Polite")
    with pytest.raises(
        ConfigError, match="defense=shiftdc is this package's own, and pkg-clash 1.2"
    ) as caught:
        DEFENSES["shiftdc"]
    assert "\n" not in str(caught.value)
    assert DEFENSES["none"].name == "none"
    assert DEFENSES["polite"].name == "polite"
    assert list(DEFENSES).count("shiftdc") == 1


def test_two_packages_with_one_name_are_refused(install: Install) -> None:
    install("pkg-one", "plug_one", BODY, polite="Polite")
    install("pkg-two", "plug_two", BODY, polite="Polite")
    with pytest.raises(ConfigError, match=r"brought by pkg-\w+ 1.2 and pkg-\w+ 1.2: uninstall one"):
        DEFENSES["polite"]


def test_a_defense_assigned_in_this_process_goes_before_an_installed_one(install: Install) -> None:
    install("pkg-polite", "plug_polite", BODY, polite="Polite")
    DEFENSES["polite"] = DEFENSES["none"]
    try:
        assert DEFENSES["polite"] is DEFENSES["none"]
        assert DEFENSES.distribution("polite") == ""
    finally:
        del DEFENSES["polite"]
    assert DEFENSES["polite"].name == "polite"


def test_run_record_and_journal_name_the_distribution(
    install: Install, tiny_llava: Path, tmp_path: Path
) -> None:
    install("pkg-polite", "plug_polite", BODY, polite="Polite")
    backbone = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))
    chats = [Chat.ask("hello", [Image.new("RGB", (20, 20), "red")])]
    through_the_adapter(backbone, chats, tmp_path / "polite", defense="polite", prefix="now ")
    through_the_adapter(backbone, chats, tmp_path / "none", defense="none")
    records = {}
    for name in ("polite", "none"):
        (path,) = (tmp_path / name).glob("run-*.json")
        records[name] = json.loads(path.read_text())
    assert records["polite"]["plugins"] == {"polite": "pkg-polite 1.2"}
    assert records["polite"]["settings"] == {"prefix": "now "}
    assert records["none"]["plugins"] == {}
    old = {key: value for key, value in records["none"].items() if key != "plugins"}
    assert RunRecord.model_validate(old) == RunRecord.model_validate(records["none"])


def test_answers_of_another_distribution_are_not_reused(
    install: Install, tiny_llava: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))

    def reused() -> bool:
        caplog.clear()
        through_the_adapter(backbone, [Chat.ask("hello")], tmp_path / "journal", defense="polite")
        return "reusing 1 of 1" in caplog.text

    install("pkg-polite", "plug_polite", BODY, polite="Polite")
    assert [reused(), reused()] == [False, True]
    shutil.rmtree(tmp_path / "pkg-polite")
    install("pkg-later", "plug_later", BODY, polite="Polite")
    assert not reused()


USED = """
import shiftdc_eval as sd
model = sd.load("toy", device="cpu")
chats = [sd.Chat.ask("how do i wash the cup ?"), sd.Chat.ask("Please answer safely. how do i wash the cup ?")]
polite, _ = model.answer(chats, defense="polite", max_new_tokens=24)
_, plain = model.answer(chats, defense="none", max_new_tokens=24)
assert polite.text and polite == plain, (polite, plain)
print(sd.DEFENSES.distribution("polite"))
"""
JUDGED = """
import sys
from shiftdc_eval.judges import get_judge
from shiftdc_eval.judges.verdict import Item
items = [Item("1", "frage", "Tut mir leid, das geht nicht."), Item("2", "frage", "Ja."), Item("3", "frage", None)]
for spec in ("words:limit=4", "keyword:list=" + sys.argv[1]):
    print([verdict.value for verdict in get_judge(spec).judge(items)])
"""
BETWEEN = "- - -"
LISTED = f"""
from shiftdc_eval.cli import main
assert main(["defenses"]) == 0
print("{BETWEEN}")
assert main(["defenses", "polite"]) == 0
"""


@pytest.mark.slow
def test_the_example_package_works_once_it_is_installed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(EXAMPLE, source)  # pip leaves a build folder in the source
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (target / "shiftdc_polite" / "german.yaml").is_file()
    environment = {**os.environ, "PYTHONPATH": str(target), "COLUMNS": "160"}

    german = str(target / "shiftdc_polite" / "german.yaml")
    code = "\n".join([USED, JUDGED, LISTED])
    found = subprocess.run(
        [sys.executable, "-c", code, german], capture_output=True, text=True, check=False, env=environment
    )
    assert found.returncode == 0, found.stderr[-2000:]
    used, *verdicts = found.stdout.splitlines()[:3]
    assert used == "shiftdc-eval-polite 0.1.0"
    assert verdicts == ["[4.0, 1.0, None]", "['refused', 'complied', None]"]
    table, one = "\n".join(found.stdout.splitlines()[3:]).split(BETWEEN)
    assert {"polite", "shiftdc-eval-polite"} <= set(table.split())
    assert {"prefix", "Please"} <= set(one.split())
