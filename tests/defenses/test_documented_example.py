"""The defense that docs/extend.md shows is the one that is run here."""

import re
from pathlib import Path

from PIL import Image

from shiftdc_eval.backbones import Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore

DOCS = Path(__file__).resolve().parents[2] / "docs" / "extend.md"


def test_the_documented_defense_works(tiny_llava: Path) -> None:
    code, *_ = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), flags=re.S | re.M)
    exec(compile(code, str(DOCS), "exec"), {})
    backbone = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))
    tools = Tools(backbone, CaptionStore(None), None)  # type: ignore[arg-type]
    settings = GenerationSettings(max_new_tokens=8)
    image = Image.new("RGB", (20, 20), "red")
    answer = DEFENSES["polite"]().answer(tools, [Request(Chat.ask("hello", [image]))], settings)[0]
    asked = Chat.ask("Please answer safely. hello", [image])
    assert answer.text == backbone.generate([asked], settings)[0].text
    del DEFENSES["polite"]
