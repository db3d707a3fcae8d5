"""Every error that embedfill raises on purpose, and the exit code of each.

    EmbedfillError                  code, message, hint, exit code; says what to do next
    ├── UsageError          2       the caller asked for something that cannot be
    │   └── ConfigError     2       a configuration value: key, value, what is allowed
    ├── WorldError          1       something outside is not as it should be
    │   ├── CorpusError     1       a corpus file: missing, unreadable, without a column
    │   ├── StoreError      1       an object store: unreachable, unsafe to share, an object missing
    │   │   └── MissingError 1      the object is not there
    │   ├── ModelError      1       a local model: not installed, damaged
    │   ├── ProviderError   1       a batch provider
    │   │   ├── RefusedError 1      it answered with an error of its own (status, code, message)
    │   │   └── UnreachableError 1  no answer: whether the request took effect is not known
    │   └── SearchIndexError 1      an index could not be built, read or searched
    ├── BillingError        5       stopped at the budget or at a provider's billing limit
    └── PendingError        4       not finished yet: batches are out

Exit codes: 0 done, 1 error, 2 usage, 3 done with rejections standing, 4 not finished, 5 stopped at a budget,
130 interrupted (safe: run again).
"""

from embedfill.masks import masked


class EmbedfillError(Exception):
    """Base of the tree. `code` is stable for scripts, `hint` says what to do next, `retryable` whether a retry helps."""

    code = "error"
    exit_code = 1
    retryable = False

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code:
            self.code = code

    def as_dict(self) -> dict[str, dict[str, str]]:
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}

    def __reduce__(self) -> tuple[object, ...]:
        # Workers raise these in other processes. Pickle's own way calls the class with `args`, which is the message alone.
        return _again, (type(self), self.args, vars(self))


class UsageError(EmbedfillError):
    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """A configuration key holds a wrong value. Names the key, the value (masked where it may be a secret) and what is
    allowed."""

    code = "config"

    def __init__(self, key: str, value: object, allowed: str, source: str = "") -> None:
        value = masked(key, value)
        where = f" in {source}" if source else ""
        missing = value is None and allowed.startswith("is required")
        super().__init__(f"{key}{where} {allowed}" if missing else f"{key} = {value!r}{where}: {allowed}")
        self.key = key
        self.value = value
        self.allowed = allowed


class WorldError(EmbedfillError):
    code = "world"


class CorpusError(WorldError):
    """A corpus file cannot be used. `file` names it."""

    code = "corpus"

    def __init__(self, file: str, message: str, hint: str = "") -> None:
        super().__init__(f"{file}: {message}", hint)
        self.file = file


class StoreError(WorldError):
    code = "store"


class MissingError(StoreError):
    """There is no object of this key."""

    code = "missing"

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key!r} in the store")
        self.key = key


class ModelError(WorldError):
    code = "model"


class ProviderError(WorldError):
    code = "provider"


class RefusedError(ProviderError):
    """The provider answered with an error: HTTP status, its own code and words, and the parameter it blames. `plain`: not
    in the API's form, so perhaps of a gateway before it that knows nothing of what was done."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        retry_after_s: float | None = None,
        param: str | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__(message, hint, code or f"http_{status}")
        self.plain = plain
        self.status = status
        self.retry_after_s = retry_after_s
        self.param = param
        self.retryable = status in (408, 409, 429) or (status >= 500 and status != 507)  # a full disk stays full


class UnreachableError(ProviderError):
    """No answer came: the request may or may not have taken effect."""

    code = "unreachable"
    retryable = True


class SearchIndexError(WorldError):
    code = "index"


class BillingError(EmbedfillError):
    code = "billing"
    exit_code = 5


class PendingError(EmbedfillError):
    code = "pending"
    exit_code = 4


def _again(kind: type[EmbedfillError], args: tuple[str, ...], state: dict[str, object]) -> EmbedfillError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error
