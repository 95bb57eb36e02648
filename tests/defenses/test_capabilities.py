"""What an engine cannot do is said before a model is loaded, with the defenses that do run there."""

from pathlib import Path
from typing import cast

import pytest

from shiftdc_eval.backbones import Backbone, Chat, ModelSpec, load_backbone
from shiftdc_eval.backbones.interface import ENGINES, Wrapper
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import DEFENSES, Settings
from shiftdc_eval.defenses.defended_model import DefendedModel
from shiftdc_eval.grid.file import read_grid
from shiftdc_eval.grid.plan import checked
from shiftdc_eval.plugin.adapter import ShiftDCVlm

PROMPTS_ALONE = "none, ecso, ecso_caption, adashield_s"


class Answering(Wrapper):
    """A backbone that answers and does nothing else, as one behind a server."""

    capabilities = frozenset({"generate"})
    engine = "server"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "transformers", frozenset({"generate"}))
    monkeypatch.setattr(
        "shiftdc_eval.plugin.adapter.load_backbone", lambda *_: pytest.fail("a model was loaded")
    )


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("defense", "missing"), [("shiftdc", "activations, edit_prefill"), ("coca", "logits")]
)
def test_the_adapter_refuses_it_before_a_model_is_loaded(defense: str, missing: str) -> None:
    with pytest.raises(
        ConfigError, match=f"needs {missing}, which engine=transformers does not offer.*: {PROMPTS_ALONE},"
    ):
        ShiftDCVlm(pretrained="toy", engine="transformers", defense=defense)


@pytest.mark.parametrize(("defense", "missing"), [("rai", "edit_image"), ("srt_raw", "edit_decode, logits")])
def test_vllm_is_refused_for_what_it_does_not_edit(
    monkeypatch: pytest.MonkeyPatch, defense: str, missing: str
) -> None:
    monkeypatch.setattr(
        "shiftdc_eval.plugin.adapter.load_backbone", lambda *_: pytest.fail("a model was loaded")
    )
    with pytest.raises(
        ConfigError, match=f"defense={defense} .* needs {missing}, which engine=vllm does not"
    ):
        ShiftDCVlm(pretrained="toy", engine="vllm", defense=defense)


@pytest.mark.usefixtures("server")
def test_a_grid_refuses_it_before_a_model_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "models: [{pretrained: toy, engine: transformers}]\ndefenses: [none, cmrm]\ntasks: [toy_malicious]\n"
    )
    with pytest.raises(ConfigError, match=f"defense=cmrm .*: {PROMPTS_ALONE},"):
        checked(list(read_grid(file).cells()))


def test_in_python_a_defense_that_needs_no_more_than_answers_runs() -> None:
    model = DefendedModel(Answering(load_backbone(ModelSpec("toy", device="cpu"))))
    chat = Chat.ask("What is shown?")
    assert model.answer([chat], defense="ecso", max_new_tokens=2)[0].tokens_out <= 2
    with pytest.raises(ConfigError, match="engine=server does not offer"):
        model.answer([chat], defense="shiftdc")


def test_what_a_defense_needs_follows_its_settings() -> None:
    shiftdc, refusal = DEFENSES["shiftdc"], DEFENSES["refusal_direction"]
    steers = {"generate", "activations", "edit_prefill"}
    assert shiftdc().needed() == steers
    assert shiftdc(variant="official", steer_decode=True).needed() == steers | {"edit_decode"}
    assert shiftdc(variant="official", preset="published").needed() == steers | {"final_norm"}
    assert refusal().needed() == steers | {"edit_decode", "final_norm", "logits"}
    given = {"positions": "last", "passes": "prefill", "site": "output"}
    assert refusal(**given, layers="2").needed() == steers
    assert "logits" in refusal(**given).needed(), "the layer is chosen by the model's logits"


@pytest.mark.usefixtures("few_pairs")
def test_every_defense_runs_on_what_it_declares(tiny_llava: Path) -> None:
    """A defense that uses more than it declares is found here: the rest of the backbone is missing."""
    from shiftdc_eval.plugin.doctor import check_defenses, short

    inner = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))
    uses = {
        "activations": ("last_token_activations",),
        "logits": ("final_norm", "next_token_logits", "follower"),
    }
    for name in DEFENSES:
        needed = short(DEFENSES[name]).needed()
        hidden = [method for what, methods in uses.items() if what not in needed for method in methods]
        members = {
            method: property(lambda _, at=f"{name} uses {method}": pytest.fail(at)) for method in hidden
        }
        only = type("Only", (Wrapper,), members)
        found = {one.name: one.problem for one in check_defenses(only(inner), [name])}
        assert found == {name: ""}


def test_a_wrapper_is_the_whole_interface() -> None:
    class Inner:
        def __getattr__(self, name: str) -> str:
            return f"the inner one's {name}"

    wrapper = Wrapper(cast(Backbone, Inner()))
    for name in vars(Backbone):
        if not name.startswith("_"):
            assert getattr(wrapper, name) == f"the inner one's {name}"


@pytest.mark.parametrize(
    "wrong", [str, "shiftdc", lambda: None, type("NoAnswer", (Settings,), {"name": "mine"})]
)
def test_what_is_no_defense_cannot_be_registered(wrong: object) -> None:
    with pytest.raises(
        ConfigError, match=r"DEFENSES\['mine'\] = .* is no class of shiftdc_eval.defenses.Settings"
    ):
        DEFENSES["mine"] = wrong  # type: ignore[assignment]
    assert "mine" not in DEFENSES
