"""schemathesis: requests made up from the published shape of the API, good ones, bad ones, and chains of them.

No answer may be a 5xx, and each must have a status, a type and a body that the shape knows. Whether a good request is
accepted is left out: the shape cannot say which file is a batch's, or which part belongs to which upload.
"""

import asyncio
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import yaml

from checks import check, holds, main, world

WORLD = world()
SHAPE = Path(__file__).resolve().parent.parent.parent / "tests" / "openapi" / "engine.yaml"
REPORT = WORLD.folder / "report.xml"
EXAMPLES = 10
found: dict[str, str] = {}  # what is wrong with an operation


async def run() -> str:
    """Runs it once over all operations; the last line it prints."""
    options = ["--url", WORLD.url, "-H", f"Authorization: Bearer {WORLD.key}", "--seed", 1, "-n", EXAMPLES]
    checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--continue-on-failure"]
    report = ["--report", "junit", "--report-junit-path", REPORT]
    command = [Path(sys.executable).with_name("st"), "run", SHAPE, *options, *checks, *report]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=WORLD.folder
    )
    said = (await process.communicate())[0].decode()
    sys.stderr.write(said)
    for case in ElementTree.parse(REPORT).iter("testcase"):
        texts = [" ".join((part.text or part.get("message") or "").split()) for part in case if part.tag != "skipped"]
        found[str(case.get("name"))] = found.get(str(case.get("name")), "") + " ".join(texts)
    cases = re.search(r"(\d+) generated", said)
    holds(cases, said[-1000:])
    return f"{cases[1] if cases else 0} requests"


@check("it runs")
async def runs() -> str:
    return await run()


def operations() -> list[str]:
    paths = yaml.safe_load(SHAPE.read_text())["paths"]
    return [f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs if verb != "parameters"]


def add(operation: str) -> None:
    @check(operation)
    async def is_as_described() -> None:
        holds(operation in found, "it was not tried")
        holds(not found[operation], found[operation])


for one in operations():
    add(one)


@check("chains of requests, and verbs that there are not")
async def others() -> None:
    wrong = {name: text for name, text in found.items() if text and name not in operations()}
    holds(not wrong, wrong)


if __name__ == "__main__":
    main("schemathesis")
