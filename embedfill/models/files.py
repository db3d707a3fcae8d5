"""Finds the weight files that installed packages carry. Imports none of these packages and downloads nothing."""

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path

from embedfill.errors import ModelError

INSTALL_HINT = 'pip install "embedfill[local]"'


def package_file(package: str, relative: str) -> Path:
    """The path of a file inside an installed package. Raises ModelError where either is missing."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(f"the package {package} is not installed", INSTALL_HINT)
    path = Path(spec.origin).parent / relative
    if not path.is_file():
        raise ModelError(f"{path} is missing from the package {package}", f"{INSTALL_HINT}, with --force-reinstall")
    return path


@functools.cache
def checked_file(package: str, relative: str, sha256: str) -> Path:
    """As `package_file`, and its bytes are the expected ones: other weights would be another space. Hashed once."""
    path = package_file(package, relative)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        message = f"{path} is damaged or another version: sha256 {found}, expected {sha256}"
        raise ModelError(message, f"{INSTALL_HINT}, with --force-reinstall")
    return path
