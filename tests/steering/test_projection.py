import torch
from hypothesis import given
from hypothesis import strategies as st

from shiftdc_eval.steering import safety_component, safety_coordinate

shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 48))


@given(shapes, st.integers(0, 10_000))
def test_the_component_is_parallel_and_the_rest_orthogonal(shape: tuple[int, int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(shape[1:], generator=generator, dtype=torch.float64)
    component = safety_component(shift, direction)
    torch.testing.assert_close(
        ((shift - component) * direction).sum(-1), torch.zeros(shape[:2], dtype=torch.float64)
    )
    torch.testing.assert_close(component, safety_coordinate(shift, direction).unsqueeze(-1) * direction)


@given(shapes, st.integers(0, 10_000))
def test_the_sign_and_length_of_the_direction_do_not_matter(shape: tuple[int, int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(shape[1:], generator=generator, dtype=torch.float64)
    torch.testing.assert_close(safety_component(shift, direction), safety_component(shift, -3 * direction))


def test_a_component_computed_by_hand() -> None:
    shift = torch.tensor([3.0, 4.0])
    direction = torch.tensor([2.0, 0.0])
    assert safety_component(shift, direction).tolist() == [3.0, 0.0]
    assert safety_coordinate(shift, direction).item() == 1.5


def test_one_sided_keeps_a_shift_towards_unsafe() -> None:
    direction = torch.tensor([1.0, 0.0])
    towards_safe, towards_unsafe = torch.tensor([2.0, 1.0]), torch.tensor([-2.0, 1.0])
    assert safety_component(towards_safe, direction, one_sided=True).tolist() == [2.0, 0.0]
    assert safety_component(towards_unsafe, direction, one_sided=True).tolist() == [0.0, 0.0]


def test_a_zero_direction_removes_nothing() -> None:
    assert safety_component(torch.ones(3), torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
