import pytest
import torch
from torch import Tensor, nn

from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.steering import (
    OnlineCalibration,
    Shift,
    edit_last_token,
    edit_tokens,
    record_last_token,
    safety_coordinate,
)


class Stack(nn.Module):
    """A residual stack whose layers return a tensor or, like older decoders, a tuple."""

    def __init__(self, layers: int, hidden: int, *, tuples: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.blocks = nn.ModuleList(Block(layer, tuples) for layer in self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            out = block(x)
            x = out[0] if isinstance(out, tuple) else out
        return x


class Block(nn.Module):
    def __init__(self, inner: nn.Module, tuples: bool) -> None:
        super().__init__()
        self.inner, self.tuples = inner, tuples

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, str]:
        out = x + torch.tanh(self.inner(x))
        return (out, "cache") if self.tuples else out


def record_all(stack: Stack, x: Tensor, position: int) -> Tensor:
    with record_last_token(list(stack.blocks), position) as seen:
        stack(x)
    return torch.stack([seen[index] for index in range(len(stack.blocks))], dim=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("layers", "hidden"), [(1, 4), (3, 16), (12, 8)])
def test_online_calibration_gives_the_text_only_coordinate_at_every_chosen_layer(
    layers: int, hidden: int, seed: int
) -> None:
    torch.manual_seed(seed)
    stack = Stack(layers, hidden).double()
    x = torch.randn(3, 5, hidden, dtype=torch.float64)
    text_only = torch.randn(3, layers, hidden, dtype=torch.float64)
    direction = torch.randn(layers, hidden, dtype=torch.float64)
    chosen = range(layers // 2, layers)
    edits = {index: OnlineCalibration(text_only[:, index], direction[index]) for index in chosen}
    with edit_last_token(list(stack.blocks), edits, 4):
        seen = record_all(stack, x, 4)
    for index in chosen:
        wanted = safety_coordinate(text_only[:, index], direction[index])
        torch.testing.assert_close(safety_coordinate(seen[:, index], direction[index]), wanted)


@pytest.mark.parametrize("tuples", [False, True])
def test_an_edit_reaches_the_named_token_and_layers_and_nothing_below(tuples: bool) -> None:
    torch.manual_seed(0)
    stack = Stack(4, 8, tuples=tuples)
    x = torch.randn(2, 6, 8)
    before = [record_all(stack, x, position) for position in range(6)]
    with edit_last_token(list(stack.blocks), {2: Shift(torch.ones(8))}, 5, every_pass=True):
        after = [record_all(stack, x, position) for position in range(6)]
    for position in range(5):
        assert torch.equal(before[position], after[position])
    assert torch.equal(before[5][:, :2], after[5][:, :2])
    torch.testing.assert_close(after[5][:, 2], before[5][:, 2] + 1)
    assert not torch.equal(before[5][:, 3], after[5][:, 3])


def test_alpha_zero_changes_no_bit() -> None:
    torch.manual_seed(0)
    stack = Stack(4, 8).to(torch.bfloat16)
    x = torch.randn(2, 6, 8, dtype=torch.bfloat16)
    plain = stack(x)
    edits = {index: OnlineCalibration(torch.randn(2, 8), torch.randn(8), alpha=0.0) for index in range(4)}
    with edit_last_token(list(stack.blocks), edits, 5):
        assert torch.equal(stack(x), plain)


def test_only_the_first_pass_is_edited_unless_every_pass_is_asked_for() -> None:
    torch.manual_seed(0)
    stack = Stack(2, 4)
    x = torch.randn(1, 3, 4)
    plain = stack(x)
    with edit_last_token(list(stack.blocks), {0: Shift(torch.ones(4))}, 2) as made:
        first, second = stack(x), stack(x)
    assert made == {0: 1}
    assert not torch.equal(first, plain)
    assert torch.equal(second, plain)
    with edit_last_token(list(stack.blocks), {0: Shift(torch.ones(4))}, 2, every_pass=True) as made:
        assert torch.equal(stack(x), stack(x))
    assert made == {0: 2}


def hook_count(stack: Stack) -> int:
    return sum(len(block._forward_hooks) for block in stack.blocks)


def test_no_hook_is_left_behind_whatever_happens() -> None:
    stack = Stack(3, 4)

    def fail_in_pass() -> None:
        with edit_last_token(list(stack.blocks), {0: Shift(torch.ones(5))}, 0):
            stack(torch.randn(1, 2, 4))

    def fail_in_body() -> None:
        with record_last_token(list(stack.blocks), 0):
            assert hook_count(stack) == 3
            raise RuntimeError("body")

    with pytest.raises(RuntimeError, match="size"):
        fail_in_pass()
    with pytest.raises(RuntimeError, match="body"):
        fail_in_body()
    with (
        pytest.raises(ModelError, match="layer 3 does not exist"),
        edit_last_token(list(stack.blocks), {0: Shift(torch.ones(4)), 3: Shift(torch.ones(4))}, 0),
    ):
        pass
    assert hook_count(stack) == 0


def test_what_is_recorded_keeps_no_other_token_alive() -> None:
    x = torch.randn(3, 50, 8)
    stack = Stack(2, 8)
    with record_last_token(list(stack.blocks), 49) as seen:
        stack(x)
    for activation in seen.values():
        assert activation.untyped_storage().nbytes() == activation.numel() * activation.element_size()
        assert not activation.requires_grad


def masked(*rows: str) -> torch.Tensor:
    """One character a token: `x` is edited."""
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


@pytest.mark.parametrize("tuples", [False, True])
def test_a_mask_names_the_tokens_of_each_row(tuples: bool) -> None:
    torch.manual_seed(0)
    stack = Stack(3, 8, tuples=tuples)
    x = torch.randn(3, 5, 8)
    mask = masked(".xx..", ".....", "x...x")

    def tokens() -> torch.Tensor:
        with record_last_token(list(stack.blocks), slice(0, 5)) as seen:
            stack(x)
        return torch.stack([seen[index] for index in range(3)])

    calls: list[tuple[int, ...]] = []

    def one_more(activation: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(activation.shape))
        return activation + 1

    plain = tokens()
    with edit_tokens(list(stack.blocks), {1: one_more}, mask):
        edited = tokens()
    assert torch.equal(plain[0], edited[0])
    assert torch.equal(plain[1][~mask], edited[1][~mask])
    torch.testing.assert_close(edited[1][mask], plain[1][mask] + 1)
    assert calls == [(2, 8), (0, 8), (2, 8)], "one call a row"


def test_a_mask_is_of_the_prompt_and_reaches_no_answer_token() -> None:
    torch.manual_seed(0)
    stack = Stack(1, 4)
    longer = torch.randn(2, 5, 4)
    mask = masked("x..", ".x.")
    plain = stack(longer)
    edits = {0: Shift(torch.ones(4))}
    with edit_tokens(list(stack.blocks), edits, mask, every_pass=True):
        edited = stack(longer)
    assert torch.equal(plain[:, 3:], edited[:, 3:])
    assert torch.equal((plain != edited).any(-1)[:, :3], mask)
    with edit_tokens(list(stack.blocks), edits, mask):
        stack(longer[:, :3])
        assert torch.equal(stack(longer[:, :1]), plain[:, :1]), "a decode step"
