"""Engines of earlier versions: `plain` is `transformers` now, `fast` is gone."""

import pytest

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.validation import validated


def test_plain_is_called_transformers_now() -> None:
    with pytest.warns(FutureWarning, match="engine=plain is called engine=transformers now"):
        assert ModelArguments(pretrained="toy", engine="plain").engine == "transformers"


def test_the_fast_engine_is_refused_in_one_line_that_says_what_to_use() -> None:
    with pytest.raises(ConfigError, match="engine=fast is gone; use engine=vllm on a GPU") as refused:
        validated(ModelArguments, {"pretrained": "toy", "engine": "fast"}, what="model argument")
    assert "\n" not in str(refused.value)
