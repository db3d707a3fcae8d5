"""BatchWizard, by its command line: submits a file, and watches until the results are here."""

import asyncio
import json
import os
import sys
from pathlib import Path

from checks import WORDS, check, equal, holds, jsonl, main, parsed, request, texts, world

WORLD = world()


async def batchwizard(*arguments: object) -> str:
    """What the command printed; raises where it failed."""
    command = [str(Path(sys.executable).with_name("batchwizard")), *map(str, arguments)]
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    environ = {**os.environ, "COLUMNS": "300"}  # its tables would cut ids off
    process = await asyncio.create_subprocess_exec(*command, **pipes, env=environ, cwd=WORLD.folder)
    output, _ = await process.communicate()
    said = output.decode()
    holds(process.returncode == 0, said[-500:])
    return said


def results(folder: Path, kind: str) -> dict[str, dict[str, object]]:
    """The lines of all files of a kind that it saved."""
    return parsed(b"".join(path.read_bytes() for path in sorted(folder.glob(f"*_{kind}.jsonl"))))


@check("process: embeddings, with errors")
async def embeddings() -> None:
    rows = texts(20)
    lines = [request(f"r{n}", "/v1/embeddings", model=WORLD.local, input=rows[n]) for n in range(20)]
    lines[3]["body"]["input"] = ""
    source, target = WORLD.folder / "embed.jsonl", WORLD.folder / "embedded"
    source.write_bytes(jsonl(*lines))
    options = ["--endpoint", "/v1/embeddings", "--check-interval", 0, "--output-directory", target]
    await batchwizard("process", source, *options)
    equal((len(results(target, "results")), list(results(target, "errors"))), (19, ["r3"]))


@check("submit, then watch: chat completions")
async def chat() -> None:
    body = {"model": WORLD.chat, "max_tokens": 4}
    lines = [
        request(f"c{n}", "/v1/chat/completions", messages=[{"role": "user", "content": word}], **body)
        for n, word in enumerate(WORDS)
    ]
    source, target = WORLD.folder / "chat.jsonl", WORLD.folder / "chatted"
    source.write_bytes(jsonl(*lines))
    await batchwizard("submit", source)
    await batchwizard("watch", "--check-interval", 0, "--output-directory", target)
    equal(set(results(target, "results")), {f"c{n}" for n in range(len(WORDS))})


@check("list-jobs, status, cancel, download")
async def verbs() -> None:
    lines = [request(f"r{n}", "/v1/embeddings", model=WORLD.local, input=texts(40)) for n in range(2000)]
    source = WORLD.folder / "long.jsonl"
    source.write_bytes(jsonl(*lines))
    said = await batchwizard("submit", source, "--endpoint", "/v1/embeddings")
    (batch_id,) = {word.strip(".,()") for word in said.split() if word.startswith("batch_")}
    holds(batch_id in await batchwizard("list-jobs", "--limit", 5))
    await batchwizard("cancel", batch_id)
    target = WORLD.folder / "cancelled"
    await batchwizard("watch", "--check-interval", 0, "--output-directory", target)
    holds(batch_id[:12] in await batchwizard("status", "--all"))
    again = WORLD.folder / "again"
    await batchwizard("download", batch_id, "--output-directory", again)
    lines = [json.loads(line) for path in again.iterdir() for line in path.read_bytes().split(b"\n") if line]
    equal(len({line["custom_id"] for line in lines}), 2000)


if __name__ == "__main__":
    main("batchwizard", "openai")
