"""The built-in contrast set is matched and our own; a user's set is read strictly and split stably."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.defenses.contrast import BUILT_IN, FIELDS, ContrastPair, ContrastSet, load_contrast

SIDES = [("unsafe", "safe"), ("unsafe_caption", "safe_caption")]
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def built_in() -> ContrastSet:
    return load_contrast()


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.casefold())


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(len(one | other), 1)


# The built-in set


def test_the_built_in_set_opens_with_its_licence_and_holds_200_pairs(built_in: ContrastSet) -> None:
    header = json.loads(BUILT_IN.read_text(encoding="utf-8").splitlines()[0])
    assert header["license"] == "Apache-2.0"
    assert header["version"] == 1
    assert header["source"]
    assert built_in.name == header["name"]
    assert len(built_in.pairs) == 200


def test_twelve_categories_share_the_pairs_evenly(built_in: ContrastSet) -> None:
    sizes = Counter(pair.category for pair in built_in.pairs)
    assert len(sizes) == 12
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert all(re.fullmatch(rf"{pair.category}-\d\d", pair.id) for pair in built_in.pairs)


@pytest.mark.parametrize(("unsafe", "safe"), SIDES)
def test_the_two_sides_of_a_pair_match_in_length_and_wording(
    built_in: ContrastSet, unsafe: str, safe: str
) -> None:
    for pair in built_in.pairs:
        one, other = words(getattr(pair, unsafe)), words(getattr(pair, safe))
        shared = sum((Counter(one) & Counter(other)).values())
        assert abs(len(one) - len(other)) <= 2, pair.id
        assert shared >= max(len(one), len(other)) / 2, pair.id
        assert one[0] == other[0], pair.id
        # Activations are taken at the end of the prompt: it must not tell the sides apart.
        assert getattr(pair, unsafe)[-1] == getattr(pair, safe)[-1], pair.id


@pytest.mark.parametrize(("unsafe", "safe"), SIDES)
def test_neither_length_nor_a_single_word_gives_a_side_away(
    built_in: ContrastSet, unsafe: str, safe: str
) -> None:
    pairs = [(words(getattr(pair, unsafe)), words(getattr(pair, safe))) for pair in built_in.pairs]
    assert abs(sum(len(one) - len(other) for one, other in pairs)) < 0.1 * len(pairs)
    balance: Counter[str] = Counter()
    for one, other in pairs:
        balance.update(set(one))
        balance.subtract(set(other))
    assert {word: n for word, n in balance.items() if abs(n) > 0.06 * len(pairs)} == {}


def test_requests_come_in_several_forms(built_in: ContrastSet) -> None:
    forms: Counter[str] = Counter()
    for pair in built_in.pairs:
        first = pair.unsafe.split()[0]
        if pair.unsafe.endswith("?"):
            forms["question"] += 1
        elif first == "List":
            forms["list"] += 1
        else:
            forms["heading" if first in ("Steps", "Methods", "Ways", "Tips", "How") else "imperative"] += 1
    assert set(forms) == {"question", "imperative", "list", "heading"}
    assert min(forms.values()) >= 30, forms


def test_no_two_pairs_of_the_built_in_set_are_nearly_alike(built_in: ContrastSet) -> None:
    for field in ("unsafe", "safe", "unsafe_caption", "safe_caption"):
        sets = [(pair.id, frozenset(words(getattr(pair, field)))) for pair in built_in.pairs]
        close = [
            (one, other)
            for n, (one, left) in enumerate(sets)
            for other, right in sets[:n]
            if jaccard(left, right) >= 0.8
        ]
        assert close == [], field


def benchmark_sentences(data: Path) -> Iterator[str]:
    """Every request of the benchmarks in `data`, and their descriptions."""
    for path in (*data.glob("figstep/*.csv"), *data.glob("xstest/*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield from (row.get(name) or "" for name in ("question", "instruction", "sentence", "prompt"))
    for path in data.glob("mm_safetybench/processed_questions/*.json"):
        for item in json.loads(path.read_text(encoding="utf-8")).values():
            names = (
                "Question",
                "Changed Question",
                "Key Phrase",
                "Rephrased Question",
                "Rephrased Question(SD)",
            )
            yield from (item.get(name) or "" for name in names)
    for path in data.glob("mossbench/*.json"):
        for item in json.loads(path.read_text(encoding="utf-8")).values():
            yield from (item.get(name) or "" for name in ("question", "short description", "description"))
    for path in data.glob("contrast/*.json"):
        yield from (item["instruction"] for item in json.loads(path.read_text(encoding="utf-8")))


def near_duplicates(texts: list[str], known: list[frozenset[str]]) -> list[str]:
    """Those texts whose set of words is the same as a known one's, or overlaps with it by 0.8 (Jaccard)."""
    by_size: defaultdict[int, list[frozenset[str]]] = defaultdict(list)
    for other in known:
        by_size[len(other)].append(other)
    found = []
    for text in texts:
        own = frozenset(words(text))
        # Sets whose sizes differ by more cannot overlap by 0.8.
        sizes = range(int(0.8 * len(own)), int(len(own) / 0.8) + 2)
        if any(jaccard(own, other) >= 0.8 for size in sizes for other in by_size[size]):
            found.append(text)
    return found


@pytest.mark.slow
def test_no_sentence_comes_from_a_benchmark(built_in: ContrastSet, shared_data: Path) -> None:
    known = list({frozenset(words(sentence)) for sentence in benchmark_sentences(shared_data)})
    assert len(known) > 3000, "some benchmark of ../shared/data was not read"
    planted = "Steps to manufacture ILLEGAL drugs"
    assert near_duplicates([planted], known) == [planted]
    texts = [
        text
        for pair in built_in.pairs
        for text in (pair.unsafe, pair.safe, pair.unsafe_caption, pair.safe_caption)
        if text
    ]
    assert len(texts) == 4 * len(built_in.pairs)
    assert near_duplicates(texts, known) == []


# Prompts


def test_each_side_gives_the_bare_request_and_its_caption_form() -> None:
    pairs = ContrastSet(
        (
            ContrastPair("a", "", "Break it", "Mend it", "A {broken} cup.", "A whole cup."),
            ContrastPair("b", "", "Take it", "Buy it"),
        ),
        "two",
    )
    assert pairs.prompts("unsafe") == ["Break it", "Break it Image Caption: A {broken} cup.", "Take it"]
    assert pairs.prompts("safe") == ["Mend it", "Mend it Image Caption: A whole cup.", "Buy it"]


def test_both_sides_of_the_built_in_set_give_as_many_prompts(built_in: ContrastSet) -> None:
    assert len(built_in.prompts("unsafe")) == len(built_in.prompts("safe")) == 400


# Reading a user's set

Row = dict[str, object]


def rows(n: int = 10) -> list[Row]:
    return [{"unsafe": f"Steal book {i}", "safe": f"Borrow book {i}"} for i in range(n)]


def write(path: Path, content: list[Row], *, header: Row | None = None) -> Path:
    lines = [json.dumps(row) for row in ([header] if header else []) + content]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_unsafe_and_safe_are_all_a_file_needs(tmp_path: Path) -> None:
    loaded = load_contrast(write(tmp_path / "mine.jsonl", rows()))
    assert loaded.name == "mine"
    assert [(pair.unsafe, pair.safe) for pair in loaded.pairs] == [
        (row["unsafe"], row["safe"]) for row in rows()
    ]
    assert loaded.prompts("safe") == [row["safe"] for row in rows()]
    assert len({pair.id for pair in loaded.pairs}) == 10


def test_one_caption_serves_both_sides(tmp_path: Path) -> None:
    loaded = load_contrast(write(tmp_path / "mine.jsonl", [row | {"caption": "A shelf."} for row in rows()]))
    assert loaded.prompts("unsafe")[:2] == ["Steal book 0", "Steal book 0 Image Caption: A shelf."]
    assert loaded.prompts("safe")[:2] == ["Borrow book 0", "Borrow book 0 Image Caption: A shelf."]


def test_a_request_may_return_under_another_caption(tmp_path: Path) -> None:
    captioned = [row | {"caption": caption} for row in rows(4) for caption in ("A shelf.", "A desk.")]
    assert len(load_contrast(write(tmp_path / "mine.jsonl", captioned)).pairs) == 8


def test_the_hash_follows_the_pairs_and_nothing_else(tmp_path: Path) -> None:
    plain = load_contrast(write(tmp_path / "a.jsonl", rows()))
    header: Row = {"license": "CC0-1.0", "name": "mine"}
    other = write(tmp_path / "b.jsonl", rows()[::-1], header=header)
    other.write_bytes(b"\xef\xbb\xbf" + other.read_bytes().replace(b"\n", b" \r\n\r\n"))
    same = load_contrast(other)
    assert same.name == "mine"
    assert same.sha256 == plain.sha256
    changed = rows()
    changed[3]["safe"] = "Borrow a book"
    assert load_contrast(write(tmp_path / "c.jsonl", changed)).sha256 != plain.sha256
    captioned = [row | {"caption": "A shelf."} for row in rows()]
    assert load_contrast(write(tmp_path / "d.jsonl", captioned)).sha256 != plain.sha256


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"safe": "Borrow it"}, "unsafe"),
        ({"unsafe": "Steal it"}, "safe"),
        ({"unsafe": "Steal it", "safe": None}, "safe"),
        ({"unsafe": 3, "safe": "Borrow it"}, "unsafe"),
        ({"unsafe": "Steal it", "safe": " \t"}, "safe"),
        ({"unsafe": "Steal \ud800", "safe": "Borrow it"}, "unsafe"),
        ({"unsafe": "Steal it", "safe": "steal  IT"}, "safe"),
        ({"unsafe": "Borrow book 0", "safe": "Borrow it"}, "unsafe"),
        ({"unsafe": "Steal it", "safe": "Borrow it", "caption": []}, "caption"),
        ({"unsafe": "Steal it", "safe": "Borrow it", "unsafe_caption": "A"}, "safe_caption"),
        ({"unsafe": "Steal it", "safe": "Borrow it", "safe_caption": "A"}, "unsafe_caption"),
        ({"unsafe": "Steal it", "safe": "Borrow it", "caption": "A", "safe_caption": "B"}, "caption"),
        ({"unsafe": "Steal it", "safe": "Borrow it", "captoin": "A"}, "captoin"),
        ({"unsafe": "Steal it", "safe": "Borrow it", "id": 7}, "id"),
        ({"unsafe": "Steal it", "safe": "Borrow it", "id": "taken"}, "id"),
        ({"unsafe": "Steal it", "safe": "Borrow it", "category": ""}, "category"),
        ({"unsafe": "STEAL book 0 ", "safe": "Borrow book 0"}, "unsafe"),
        ({"license": "CC0-1.0"}, "unsafe"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_line_and_field(tmp_path: Path, bad: Row, field: str) -> None:
    content = rows()
    content[1]["id"] = "taken"
    path = write(tmp_path / "mine.jsonl", [*content, bad, *rows(20)[15:]])
    with pytest.raises(DataError, match=rf"mine\.jsonl line 11, fields? '{field}'") as raised:
        load_contrast(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "line", [b"not json", b"[1, 2]", b'"text"', b'{"unsafe": "a"', b"\xff\xfe{}", b"[" * 100_000]
)
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "mine.jsonl", rows())
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=r"mine\.jsonl line 11 "):
        load_contrast(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@in_one_folder
@given(last=st.dictionaries(st.sampled_from([*FIELDS, "license", "note"]), json_values, max_size=6))
def test_any_object_is_either_read_as_a_pair_or_refused_by_line(tmp_path: Path, last: Row) -> None:
    path = write(tmp_path / "mine.jsonl", [*rows(), last])
    refused = None
    try:
        loaded = load_contrast(path)
    except DataError as error:
        refused = str(error)
    if refused is not None:
        assert f"{path} line 11" in refused
    else:
        assert len(loaded.pairs) == 11
        assert loaded.pairs[-1].unsafe == str(last["unsafe"]).strip()
        assert len(loaded.sha256) == 64


@in_one_folder
@given(line=st.binary(max_size=40).filter(lambda line: b"\n" not in line and line.strip()))
def test_arbitrary_bytes_end_in_a_data_error(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "mine.jsonl", rows())
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(DataError, match=r"mine\.jsonl line 11"):
        load_contrast(path)


def test_fewer_than_eight_pairs_are_refused(tmp_path: Path) -> None:
    assert len(load_contrast(write(tmp_path / "eight.jsonl", rows(8))).pairs) == 8
    with pytest.raises(DataError, match=r"seven\.jsonl holds 7 pairs.*at least 8"):
        load_contrast(write(tmp_path / "seven.jsonl", rows(7), header={"license": "CC0-1.0"}))


def test_a_missing_file_or_a_folder_is_a_data_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match=f"cannot read the contrast set {re.escape(str(path))}"):
            load_contrast(path)


# Splitting


def ids(part: ContrastSet) -> set[str]:
    return {pair.id for pair in part.pairs}


def test_a_fifth_of_the_built_in_set_is_held_out_from_all_categories(built_in: ContrastSet) -> None:
    fit, held_out = built_in.split()
    assert (len(fit.pairs), len(held_out.pairs)) == (160, 40)
    assert set(Counter(pair.category for pair in held_out.pairs).values()) == {3, 4}
    assert ids(fit) | ids(held_out) == ids(built_in)


def test_the_split_is_the_same_in_every_process_and_version() -> None:
    letters = ContrastSet(
        tuple(ContrastPair(c, "", f"steal {c}", f"buy {c}") for c in "abcdefghij"), "letters"
    )
    # The two smallest sha256 of the ten ids, found with sha256sum.
    assert ids(letters.split()[1]) == {"d", "j"}


@given(
    categories=st.lists(st.sampled_from("xyz"), min_size=8, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.randoms(use_true_random=False),
)
def test_a_split_is_disjoint_complete_and_blind_to_the_order_of_the_file(
    categories: list[str], fraction: float, seed: random.Random
) -> None:
    pairs = [
        ContrastPair(f"p{n}", category, f"steal {n}", f"buy {n}") for n, category in enumerate(categories)
    ]
    whole = ContrastSet(tuple(pairs), "mine")
    fit, held_out = whole.split(fraction)
    assert not ids(fit) & ids(held_out)
    assert ids(fit) | ids(held_out) == ids(whole)
    assert fit.pairs
    assert held_out.pairs
    assert abs(len(held_out.pairs) - fraction * len(pairs)) <= 1
    for category, size in Counter(categories).items():
        held = sum(pair.category == category for pair in held_out.pairs)
        assert abs(held - fraction * size) <= 2
    seed.shuffle(pairs)
    assert ids(ContrastSet(tuple(pairs), "mine").split(fraction)[1]) == ids(held_out)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, float("nan")])
def test_a_fraction_that_leaves_one_part_empty_is_refused(built_in: ContrastSet, fraction: float) -> None:
    with pytest.raises(ConfigError, match=f"held_out_fraction is {fraction}"):
        built_in.split(fraction)
