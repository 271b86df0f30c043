"""The error tree: identifiers and codes of the contract, exit codes, details."""

from __future__ import annotations

import pytest

from netsonde import errors
from netsonde.errors import NetsondeError, RequestError


def descendants(kind: type[NetsondeError]) -> list[type[NetsondeError]]:
    found = []
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            found += [child, *descendants(child)]
    return found


REQUEST_ERRORS = [kind for kind in descendants(RequestError) if issubclass(kind, RequestError)]

# Code and exit status of each error.
CONTRACT = {
    ("expired", 400),
    ("no_session", 400),
    ("invalid_interface", 400),
    ("invalid_backend", 400),
    ("invalid_filter", 400),
    ("invalid_collector", 400),
    ("path_not_allowed", 403),
    ("policy_denied", 403),
    ("not_found", 404),
    ("session_active", 409),
    ("request_id_reused", 409),
    ("backend_unavailable", 503),
    ("interface_shared", 503),
    ("flow_metering_unavailable", 503),
    ("netflow_export_unavailable", 503),
    ("encryption_unavailable", 503),
}


def test_contract_errors_all_exist() -> None:
    assert {(kind.error, kind.code) for kind in REQUEST_ERRORS} >= CONTRACT


def test_identifiers_are_unique() -> None:
    identifiers = [kind.error for kind in REQUEST_ERRORS]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_each_error_has_a_detail(kind: type[RequestError]) -> None:
    assert kind().detail
    assert kind("in these words", field="$.a").detail == "in these words"
    assert kind("x", field="$.a").field == "$.a"


def test_module_docstring_shows_every_class() -> None:
    for kind in descendants(NetsondeError):
        assert kind.__name__ in (errors.__doc__ or ""), kind


def test_exit_codes() -> None:
    assert errors.ConfigError.exit_code == 78
    assert errors.UnreachableError.exit_code == 69
    assert errors.PrivilegeError.exit_code == 77
    assert {kind.exit_code for kind in REQUEST_ERRORS} == {1}
