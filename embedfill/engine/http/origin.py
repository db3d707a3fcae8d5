"""Tells what a web page had a browser send from what a program sends. Knows no key and no route.

A browser sends what any page wants to any address, 127.0.0.1 included, and a name that a page's owner has in the DNS may
come to mean 127.0.0.1. Where no key is asked for, such a request must not be taken for the user's own.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from embedfill.errors import RefusedError

_REMEDY = "or give the engine a key"


def foreign(headers: Headers) -> RefusedError | None:
    """Why the request is not to be answered without a key (403); None for a program's, which sends nothing of the kind."""
    host = ",".join(headers.getlist("host"))
    if "host" in headers and not _here(host):
        message = (
            f"The Host {host[:100]!r} is no name of this machine's own: ask for 127.0.0.1 or localhost, {_REMEDY}."
        )
        return RefusedError(403, "foreign_host", message)
    origins = headers.getlist("origin")
    same = all(origin.partition("://")[2].lower() == host.lower() for origin in origins)
    if not same or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        message = f"A web page of another origin had this sent: ask from a program, {_REMEDY}."
        return RefusedError(403, "foreign_origin", message)
    return None


def _here(host: str) -> bool:
    """Whether nobody's DNS says what the host means: an address, or localhost."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:  # a name, or not even the form of a host
        return False
