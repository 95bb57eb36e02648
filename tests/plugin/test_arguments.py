import pytest

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.plugin.arguments import (
    AdapterArguments,
    parse_pairs,
    split_arguments,
    validated,
    written_pairs,
)


def test_pairs_are_split_at_the_first_equals_sign() -> None:
    assert parse_pairs("pretrained=a/b, layers=10-31,system_prompt=x=y,") == {
        "pretrained": "a/b",
        "layers": "10-31",
        "system_prompt": "x=y",
    }


def test_a_value_in_double_quotes_holds_commas_and_is_written_as_it_is_read() -> None:
    text = 'system_prompt="Be kind, and ""brief"".", pretrained="/a, b/c",x=say "hi",y= ,z=""'
    values = {
        "system_prompt": 'Be kind, and "brief".',
        "pretrained": "/a, b/c",
        "x": 'say "hi"',
        "y": "",
        "z": "",
    }
    assert parse_pairs(text) == values
    assert parse_pairs(written_pairs(values)) == values
    odd = {"a": " spaced ", "b": '"', "c": ",", "d": '""x', "e": "=,="}
    assert parse_pairs(written_pairs(odd)) == odd


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layers=1,2", "'2' has no '='"),
        ("a=1,a=2", "a is given twice"),
        ('a="b, c', "the quote of a= is not closed"),
        ('a="b"c', "the quote of a= is not closed, or something follows it"),
    ],
)
def test_malformed_pairs_say_how_to_write_them(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_pairs(text)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "defense= is missing"),
        ({"pretrained": "x", "defence": "shiftdc"}, "unknown model argument defence; did you mean defense?"),
        ({"defense": "shiftcd"}, "defense=shiftcd is unknown; did you mean shiftdc?"),
        ({"defense": "shiftdc", "alhpa": 1}, "unknown model argument alhpa; did you mean alpha?"),
        ({"defense": "none", "alpha": 1}, "unknown model argument alpha"),
    ],
)
def test_unknown_arguments_name_the_nearest(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_arguments(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_given_as_an_argument_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError) as caught:
        split_arguments({"defense": "none", "api_key": "canary-4711"})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_size": "many"}, "batch_size"),
        ({"batch_size": "0"}, "batch_size"),
        ({"dtype": "float8"}, "dtype"),
        ({"seed": "-1"}, "seed"),
        ({"trust_remote_code": "perhaps"}, "trust_remote_code"),
        ({"max_batch_size": "4"}, "max_batch_size=4 has no effect with batch_size=1"),
        ({"device": "cuda:1", "device_map": "auto"}, "device=cuda:1 has no effect"),
        ({"engine": "vllm", "use_cache": "false"}, "use_cache=false belongs to engine=transformers"),
    ],
)
def test_ill_typed_adapter_arguments_name_themselves(values: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        validated(AdapterArguments, {"pretrained": "x", "defense": "none", **values}, what="model argument")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"alpha": "strong"}, "alpha=strong"),
        ({"alpha": "nan"}, "alpha=nan"),
        ({"variant": "offline"}, "variant=offline"),
        ({"caption_max_new_tokens": "0"}, "caption_max_new_tokens=0"),
        ({"expert_prompt": "true"}, "expert_prompt belongs to variant=official"),
        ({"preset": "published"}, "preset belongs to variant=official"),
    ],
)
def test_ill_typed_defense_settings_name_themselves(values: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(DEFENSES["shiftdc"], values, what="model argument")
    assert said in str(caught.value)


def test_command_line_strings_become_numbers() -> None:
    made = validated(
        AdapterArguments, {"pretrained": "x", "defense": "none", "batch_size": "8"}, what="argument"
    )
    assert made.batch_size == 8
    auto = validated(
        AdapterArguments, {"pretrained": "x", "defense": "none", "batch_size": "auto"}, what="argument"
    )
    assert auto.batch_size == "auto"
