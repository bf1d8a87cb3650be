"""What commands say to machines: with --json one JSON value on standard output and no more, with -q no progress beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.key_store import Store, Stored
from tests.e2e.conftest import Served
from tests.fake_process import fake_engine

LLAMA = "hf:meta-llama/Meta-Llama-3.1-8B"
COMMANDS = (
    "plan llama.yaml --machine A100-80GB --offline --json",
    "plan llama.yaml --machine azure --offline --json",
    "plan both.yaml --machine A100-80GB --offline --json",  # packed
    "plan served.yaml --update --offline --json",
    "plan kept.yaml --diff --offline --json",
    "plan llama.yaml --forget --json",
    "plan --engines --json",
    "engines --json",
    "check llama.yaml --json",
    "key list --json --file keys.json",
    "simulate --replica slots=2,prefill=1000,step=20ms --trace trace.csv --policy fixed:1 --json",
    "simulate --replica slots=2,prefill=1000,step=20ms --trace trace.csv --suggest --json",
    "status --json",
    "status --decisions --json",
    "status --keys --json",
    "top --once --json",
    "graduate --status --json",
    "reload --status --json",  # before any
    "reload --dry-run --json",
    "reload --detach --json",
    "bench chat --concurrency 1 --duration 1s --warmup 0s --output 4 --prompt 16 --json -",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with files of every kind, and the environment that names the gateway which serves one of them."""
    folder = tmp_path_factory.mktemp("json")
    (folder / "llama.yaml").write_text(f"models: {{chat: '{LLAMA}'}}\n")
    (folder / "both.yaml").write_text(f"models: {{chat: '{LLAMA}', other: '{LLAMA}'}}\n")
    (folder / "trace.csv").write_text("timestamp,input_tokens,output_tokens\n" + "".join(f"{at},200,40\n" for at in range(60)))
    Store(folder / "keys.json").add(Stored("team", ""))
    with fake_engine("--tokens", "4") as address:
        (folder / "served.yaml").write_text(f"models: {{chat: {{url: '{address}', slots: 4}}}}\n")
        (folder / "kept.yaml").write_text((folder / "served.yaml").read_text())
        (folder / "kept.lock").write_text("{version: 1, headrace: '0', machine: {}, models: {}}\n")  # of an earlier Headrace
        served = Served(["served.yaml", "--listen", "127.0.0.1:0"], folder)
        served.wait_for("chat is ready")
        yield folder, {**os.environ, "HEADRACE_URL": served.url, "HEADRACE_CACHE": str(folder / "cache")}
        served.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_all_that_is_printed_and_quiet_is_quiet(place: tuple[Path, dict[str, str]], command: str) -> None:
    folder, environment = place
    ran = subprocess.run(
        [sys.executable, "-m", "headrace.cli", *command.split(), "-q"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ran.returncode in (0, 1), ran.stderr  # 1: findings of `check`, a plan that misses something with --strict
    json.loads(ran.stdout)
    assert "\x1b" not in ran.stdout + ran.stderr
    missed = [line for line in ran.stderr.splitlines() if not line.startswith("Missed: ")]
    assert missed == []
