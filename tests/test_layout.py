"""The layout that DESIGN and the contracts in setup.cfg describe, read off the files and their real imports."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "shiftdc_eval"


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere, in functions and for type checking too."""
    sys.path.insert(0, str(ROOT))
    try:
        graph = grimp.build_graph("shiftdc_eval", "training", cache_dir=None)
    finally:
        sys.path.remove(str(ROOT))
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def circles(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that reach themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(imports.get(start, ()))
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo.extend(imports.get(module, ()))
        return seen

    return sorted(module for module in imports if module in reached(module))


def test_a_circle_is_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}) == ["a", "b", "c"]


def test_no_files_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 150
    assert circles(imports) == []


def test_no_packages_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    packages: defaultdict[str, set[str]] = defaultdict(set)
    for module, others in imports.items():
        mine = ".".join(module.split(".")[:2])
        packages[mine] |= {".".join(other.split(".")[:2]) for other in others} - {mine}
    assert circles(packages) == []


def test_the_package_imports_nothing_of_the_training_code(imports: dict[str, set[str]]) -> None:
    users = [module for module, others in imports.items() if any(o.startswith("training") for o in others)]
    assert all(module.startswith("training") for module in users)


def test_the_package_is_whole_in_itself_with_about_a_dozen_entries() -> None:
    assert [path for path in PACKAGE.rglob("*") if path.is_symlink()] == []
    entries = sorted(path.name for path in PACKAGE.iterdir() if path.name != "__pycache__")
    assert len(entries) <= 14, entries
