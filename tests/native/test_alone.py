"""The C tests that fill interfaces of their own or watch the clock: each alone on the machine."""

from __future__ import annotations

import pytest
from c_tests import ALONE, run_c_test


@pytest.mark.parametrize("name", ALONE)
def test_c(name: str) -> None:
    run_c_test(name)
