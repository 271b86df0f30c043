"""C tests that flood their own interfaces or depend on the clock. Each runs alone."""

from __future__ import annotations

import pytest
from c_tests import ALONE, run_c_test


@pytest.mark.parametrize("name", ALONE)
def test_c(name: str) -> None:
    run_c_test(name)
