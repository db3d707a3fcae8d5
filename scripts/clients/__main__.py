"""Runs real clients, unchanged, against an engine, and prints what worked. Exits with 1 where anything failed.

Each client has an environment of its own, which is kept; the first run of all takes some minutes, the next ones do not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import report
from catalog import CLIENTS, LITELLM, LLAMA, Client
from environments import environment
from report import Outcome
from stage import Stage, staged

HERE = Path(__file__).resolve().parent
DRIVER_S = 300


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.list:
        print("\n".join(f"{client.name:14}{' '.join(client.requires)}" for client in CLIENTS))
        return 0
    chosen = [client for client in CLIENTS if _is_chosen(client, arguments)]
    outcomes = _play(chosen, arguments.environments.resolve(), with_litellm=LITELLM in [one.requires for one in chosen])
    if arguments.json:
        print(json.dumps(report.as_json(outcomes)))
    else:
        print(report.as_text(outcomes, arguments.checks))
    return 1 if report.failed(outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the official client in all versions, and no more")
    names = ", ".join(client.name for client in CLIENTS)
    parser.add_argument("--only", action="append", metavar="CLIENT", help=f"one of {names}; may be repeated")
    parser.add_argument("--checks", action="store_true", help="tell every check, not only what failed or was skipped")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--list", action="store_true", help="the clients and what they install; runs nothing")
    kept = HERE.parent.parent / ".venv-clients"
    parser.add_argument("--environments", type=Path, default=kept, help="where they are kept (.venv-clients)")
    return parser


def _is_chosen(client: Client, arguments: argparse.Namespace) -> bool:
    if arguments.only:
        return client.name in arguments.only
    return client.quick or not arguments.quick


def _play(clients: Sequence[Client], home: Path, with_litellm: bool) -> list[Outcome]:
    home.mkdir(exist_ok=True)
    wanted = [LLAMA, *dict.fromkeys(client.requires for client in clients)]
    with ThreadPoolExecutor(2) as pool:
        made = dict(zip(wanted, pool.map(lambda requires: environment(home, requires), wanted), strict=True))
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        root = Path(folder)
        with staged(root, made[LLAMA], made[LITELLM] if with_litellm else None) as stage:
            return [_drive(client, made[client.requires], stage, root / client.name) for client in clients]


def _drive(client: Client, python: Path, stage: Stage, folder: Path) -> Outcome:
    print(f"== {client.name}", file=sys.stderr)
    folder.mkdir()
    outcome = Outcome(client.name)
    command = [str(python), str(HERE / client.driver)]
    try:
        done = subprocess.run(
            command, env=stage.environ(folder), cwd=folder, capture_output=True, text=True, timeout=DRIVER_S
        )
        said, errors, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as expired:
        said, errors, code = (expired.stdout or b"").decode(), f"took more than {DRIVER_S} s", -1
    for line in filter(None, said.splitlines()):
        value = json.loads(line)
        if "check" in value:
            outcome.checks.append(value)
        else:
            outcome.version = value["version"]
    if code or not outcome.checks:
        outcome.checks.append({"check": "the driver", "outcome": "failed", "detail": errors[-1500:], "seconds": 0.0})
    return outcome


if __name__ == "__main__":
    sys.exit(main())
