"""Shapes that would be quadratic, exponential or a bomb: each ends within generous bounds of CPU and memory."""

from __future__ import annotations

import pytest
from fuzz_limits import in_bounds
from fuzz_seeds import small_object
from fuzz_shapes import SHAPES

from btf.fault import Fault

CPU_S = 40  # ten times what the slowest takes; without its bound each takes minutes or for ever


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__.strip("_"))
def test_a_costly_shape_ends_in_bounds(shape) -> None:
    small_object()  # compiles outside the bounds

    def run() -> None:
        try:
            shape()
        except Fault as fault:
            assert fault.message

    in_bounds(run, seconds=CPU_S)
