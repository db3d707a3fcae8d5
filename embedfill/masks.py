"""What must not be seen, taken out of what is shown: keys, and the user info and the query of URLs. Guards no file."""

import re

HIDDEN = "***"
_NAME = re.compile(
    r"(^|[_.\-])(api_?)?(keys?|secrets?|passwords?|passwd|credentials?|token|auth|authorization|bearer|pat)$",
    re.IGNORECASE,
)
_KEY = re.compile(r"\s*((sk|pk|pa|rk)-|(hf|ghp|gho|github_pat)_|(bearer|basic)\s|eyJ|AKIA)", re.IGNORECASE)
_WEB = re.compile(r"(https?://)(?:[^\s'\"]*@)?([^\s'\"?#]*)(?:[?#][^\s'\"]*)?", re.IGNORECASE)
_URL = re.compile(
    r"([a-z][a-z0-9+.-]*://)(?:[^\s/?#'\"]*:[^\s/?#'\"]*@)?([^\s?#'\"]*)(?:[?#][^\s'\"]*)?", re.IGNORECASE
)


def public(text: str) -> str:
    """Text with its URLs cut down to scheme, host and path. A password may hold a slash: up to the last @ all goes."""
    return _URL.sub(r"\1\2", _WEB.sub(r"\1\2", text))


def masked(name: str, value: object) -> object:
    """A value as it may be shown: stars where its name says that it is secret, or where it looks like a key."""
    if value is None or isinstance(value, bool):
        return value
    if _NAME.search(name):
        return HIDDEN
    if isinstance(value, dict):
        return {key: masked(str(key), one) for key, one in value.items()}
    if isinstance(value, list):
        return [masked(name, one) for one in value]
    if isinstance(value, str):
        return HIDDEN if _KEY.match(value) else public(value)
    return value
