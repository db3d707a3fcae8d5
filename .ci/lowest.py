"""Prints pip constraints that hold every direct dependency of a pyproject.toml at its lower bound. Installs nothing."""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement


def constraints(project: dict) -> Iterator[str]:
    """One line for each requirement with a lower bound; an exact one is its own bound."""
    extras = project.get("optional-dependencies", {}).values()
    for text in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(text)
        bounds = [bound.version for bound in requirement.specifier if bound.operator in (">=", "==")]
        if bounds:
            yield f"{requirement.name}=={bounds[0]}"


if __name__ == "__main__":
    wanted = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
    sys.stdout.writelines(f"{line}\n" for line in sorted(set(constraints(wanted))))
