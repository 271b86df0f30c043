"""All expected errors, as one tree.

    NetsondeError                         exit 1
    ├── ConfigError                       exit 78
    ├── UnreachableError                  exit 69   NATS cannot be reached
    ├── PrivilegeError                    exit 77
    └── RequestError                      a reply with a code; exit 1
        ├── 400  MalformedRequest  RequestExpired  NoSession  ReplyTooLarge
        │        InvalidInterface  InvalidBackend  InvalidFilter  InvalidCollector
        │        UnsupportedCipher  InvalidKey  BufferTooLarge
        ├── 403  PathNotAllowed  PolicyDenied
        ├── 404  UnknownVerb  NotFound
        ├── 409  SessionActive  RequestIdReused  NameTaken  Managed
        ├── 422  InvalidRequest
        ├── 429  TooManyRequests
        ├── 500  InternalError
        └── 503  BackendUnavailable  InterfaceShared  FlowMeteringUnavailable
                 NetflowExportUnavailable  EncryptionUnavailable  Draining
                 ObjectStoreUnavailable  ExportFileUnavailable  StateUnavailable

A class defines the wire `code` and `error`, both stable, and the exit code. An instance adds
`detail`, a sentence for people, and the `field` at fault. Only service/responder.py translates
errors to the wire, and only cli to exit codes.
"""

# ruff: noqa: N818 - the classes are named after their wire `error`, not after "Error".

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
EXIT_PRIVILEGE = 77
EXIT_CONFIG = 78


class NetsondeError(Exception):
    """Root of the tree: `detail` is a sentence for a person."""

    exit_code: ClassVar[int] = EXIT_REFUSED

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ConfigError(NetsondeError):
    exit_code = EXIT_CONFIG


class UnreachableError(NetsondeError):
    exit_code = EXIT_UNREACHABLE


class PrivilegeError(NetsondeError):
    exit_code = EXIT_PRIVILEGE


class RequestError(NetsondeError):
    """An error that becomes an error reply."""

    code: ClassVar[int] = 500
    error: ClassVar[str] = "internal"
    default_detail: ClassVar[str] = "The request could not be executed."

    def __init__(self, detail: str = "", *, field: str | None = None) -> None:
        super().__init__(detail or self.default_detail)
        self.field = field


# ---- 400: invalid for this host -----------------------------------------------------------


class MalformedRequest(RequestError):
    code = 400
    error = "malformed_request"
    default_detail = "The body could not be decoded; send one JSON object."


class RequestExpired(RequestError):
    code = 400
    error = "expired"
    default_detail = "The request arrived after its Expires-At; send a new one."


class NoSession(RequestError):
    code = 400
    error = "no_session"
    default_detail = "No capture session is active on this host; start one first."


class ReplyTooLarge(RequestError):
    code = 400
    error = "reply_too_large"
    default_detail = "The reply is larger than the NATS server's max_payload; ask for less."


class InvalidInterface(RequestError):
    code = 400
    error = "invalid_interface"


class InvalidBackend(RequestError):
    code = 400
    error = "invalid_backend"


class InvalidFilter(RequestError):
    code = 400
    error = "invalid_filter"


class BufferTooLarge(RequestError):
    code = 400
    error = "buffer_too_large"


class UnsupportedCipher(RequestError):
    code = 400
    error = "unsupported_cipher"
    default_detail = "The only cipher suite is AES-256-GCM."


class InvalidKey(RequestError):
    code = 400
    error = "invalid_key"
    default_detail = (
        "The key file must exist, be a regular file owned by root or the agent's user with "
        "mode 0600 or stricter, and hold exactly 32 bytes or 64 hexadecimal digits."
    )


class InvalidCollector(RequestError):
    code = 400
    error = "invalid_collector"


# ---- 403, 404, 409, 422, 429, 500 ---------------------------------------------------------


class PathNotAllowed(RequestError):
    code = 403
    error = "path_not_allowed"
    default_detail = "The path is outside the directories that this host's configuration allows."


class PolicyDenied(RequestError):
    code = 403
    error = "policy_denied"
    default_detail = "This host's [policy] does not allow this caller to use the verb."


class UnknownVerb(RequestError):
    code = 404
    error = "unknown_verb"


class NotFound(RequestError):
    code = 404
    error = "not_found"
    default_detail = "No such file."


class SessionActive(RequestError):
    code = 409
    error = "session_active"
    default_detail = "A capture session is already active on this host; stop it first."


class RequestIdReused(RequestError):
    code = 409
    error = "request_id_reused"
    default_detail = "This Request-Id was used with another request; use a new one."


class NameTaken(RequestError):
    code = 409
    error = "name_taken"
    default_detail = (
        "Another agent with this host name started first; set [agent] host on one of them."
    )


class Managed(RequestError):
    code = 409
    error = "managed"
    default_detail = "The configuration or a policy wants this capture; override it to change it."


class InvalidRequest(RequestError):
    code = 422
    error = "invalid_request"


class TooManyRequests(RequestError):
    code = 429
    error = "too_many_requests"
    default_detail = "Too many costly requests are running on this host; try again in a moment."


class InternalError(RequestError):
    code = 500
    error = "internal"


# ---- 503: unavailable on this host --------------------------------------------------------


class BackendUnavailable(RequestError):
    code = 503
    error = "backend_unavailable"


class InterfaceShared(RequestError):
    code = 503
    error = "interface_shared"


class FlowMeteringUnavailable(RequestError):
    code = 503
    error = "flow_metering_unavailable"
    default_detail = "Flow metering not available on configured backend"


class NetflowExportUnavailable(RequestError):
    code = 503
    error = "netflow_export_unavailable"
    default_detail = "NetFlow export not available on configured backend"


class EncryptionUnavailable(RequestError):
    code = 503
    error = "encryption_unavailable"
    default_detail = "Buffer encryption not available on configured backend"


class ObjectStoreUnavailable(RequestError):
    code = 503
    error = "object_store_unavailable"


class ExportFileUnavailable(RequestError):
    code = 503
    error = "export_file_unavailable"


class StateUnavailable(RequestError):
    code = 503
    error = "state_unavailable"
    default_detail = "The state directory cannot be written, so the start cannot be kept."


class Draining(RequestError):
    code = 503
    error = "draining"
    default_detail = "The agent is shutting down; try again when it is back."
