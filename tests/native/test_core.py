"""C tests that need neither an interface nor the clock, one pytest item each.

They may run in parallel with others. .ci/fuzz runs the fuzz targets.
"""

from __future__ import annotations

import json
import subprocess

import pytest
from c_tests import ALONE, ASAN, C_TESTS, REPOSITORY, run_c_test

CORPUS = REPOSITORY / "native" / "fuzz" / "corpus"
FUZZERS = sorted(path.stem for path in (REPOSITORY / "native" / "fuzz").glob("*_fuzz.c"))


def test_every_c_test_is_known_to_ctest() -> None:
    assert ASAN.is_dir(), "build/asan is absent: `make test` builds it"
    shown = subprocess.run(
        ["ctest", "--test-dir", str(ASAN), "--show-only=json-v1"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert {test["name"] for test in json.loads(shown.stdout)["tests"]} == set(C_TESTS)


@pytest.mark.parametrize("name", sorted({*C_TESTS} - {*ALONE}))
def test_c(name: str) -> None:
    run_c_test(name)


def test_every_decoder_of_outside_bytes_has_a_fuzzer() -> None:
    assert FUZZERS
    for name in FUZZERS:
        corpus = CORPUS / name.removesuffix("_fuzz")
        assert corpus.is_dir(), f"{name} has no corpus in git"
        assert any(corpus.iterdir()), f"{corpus} is empty"
