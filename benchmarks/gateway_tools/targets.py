"""The gateways that can be measured: how each is found, configured and started in front of two engines."""

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from gateway_tools.processes import Failed, free_port, running, wait_until

HERE = Path(__file__).parent
START_SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """A gateway. $port, $spare, $engine1 and $engine2 are ports, in `argv` and in `config`, a file beside this one."""

    name: str
    argv: tuple[str, ...]
    ready: str
    """The path that is answered with 200 once requests are."""
    version: tuple[str, ...]
    """What prints the version; $folder is where the program is."""
    config: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    phases: frozenset[str] | None = None
    """What it is measured in, where it is too slow for the rest; None: everything."""
    slow: float = 1.0
    """By how much what is measured is lengthened."""
    also: tuple[str, ...] = ()
    """More files to be filled in."""


TARGETS = {
    target.name: target
    for target in (
        Target(
            "headrace",
            (sys.executable, str(HERE / "everything.py"), "serve", "everything.yaml"),
            "/ready",
            ("$folder/headrace", "version"),
            "everything.yaml",
            also=("keys.json",),
        ),
        Target(
            "headrace-bare", ("headrace", "serve", "headrace.yaml"), "/ready", ("$folder/headrace", "version"), "headrace.yaml"
        ),
        Target("nginx", ("nginx", "-e", "stderr", "-p", ".", "-c", "nginx.conf"), "/", ("$folder/nginx", "-v"), "nginx.conf"),
        Target("haproxy", ("haproxy", "-db", "-f", "haproxy.cfg"), "/", ("$folder/haproxy", "-v"), "haproxy.cfg"),
        Target(
            "vllm-router",
            (
                *("vllm-router", "--host", "127.0.0.1", "--port", "$port", "--prometheus-port", "$spare"),
                *("--worker-urls", "http://127.0.0.1:$engine1", "http://127.0.0.1:$engine2", "--policy", "power_of_two"),
                *("--worker-startup-check-interval", "1", "--log-level", "error"),
            ),
            "/readiness",
            ("$folder/python3", "-c", "from importlib.metadata import version; print('vllm-router', version('vllm-router'))"),
            environment={"TOKIO_WORKER_THREADS": "1"},
        ),
        Target(
            "sglang-router",
            (
                *("sglang-router", "launch", "--host", "127.0.0.1", "--port", "$port", "--prometheus-port", "$spare"),
                *("--worker-urls", "http://127.0.0.1:$engine1", "http://127.0.0.1:$engine2", "--policy", "power_of_two"),
                *("--log-level", "error", "--worker-startup-timeout-secs", "20", "--worker-startup-check-interval", "1"),
                *("--max-concurrent-requests", "8000", "--queue-size", "8000"),
            ),
            "/readiness",
            ("$folder/python3", "-c", "from importlib.metadata import version; print('sglang-router', version('sglang-router'))"),
            environment={"TOKIO_WORKER_THREADS": "1"},
        ),
        Target(
            "litellm",
            ("litellm", "--config", "litellm.yaml", "--host", "127.0.0.1", "--port", "$port", "--num_workers", "1"),
            "/health/readiness",
            ("$folder/python3", "-c", "from importlib.metadata import version; print('litellm', version('litellm'))"),
            "litellm.yaml",
            {
                **{"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_TELEMETRY": "False"},
                **{"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            },
            phases=frozenset(("c1", "c32")),
            slow=6.0,
        ),
    )
}


def find(program: str, more: str = "") -> Path | None:
    """The program beside our interpreter, in PATH, in the folders `more`, or where Debian keeps servers."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), more, "/usr/sbin"]
    found = shutil.which(program, path=os.pathsep.join(folder for folder in folders if folder))
    return Path(found) if found else None


def version(target: Target, program: Path) -> str:
    """What the program says of its version, in one line."""
    argv = [Template(word).substitute(folder=program.parent) for word in target.version]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    return (done.stdout + done.stderr).strip().partition("\n")[0]


@contextmanager
def started(target: Target, program: Path, engines: Sequence[int], core: int | None, folder: Path) -> Iterator[tuple[int, int]]:
    """The gateway on `core`, ready; its process id and its port. Raises Failed, with the last lines of its log."""
    ports = {"port": free_port(), "spare": free_port(), "engine1": engines[0], "engine2": engines[1]}
    for name in (*([target.config] if target.config else []), *target.also):
        (folder / name).write_text(Template((HERE / name).read_text()).substitute(ports))
    argv = [program, *(Template(word).substitute(ports) for word in target.argv[1:])]
    path = folder / f"{target.name}.log"
    with (
        path.open("wb") as log,
        running(argv, core=core, folder=folder, environment=target.environment, output=log) as process,
    ):
        url = f"http://127.0.0.1:{ports['port']}{target.ready}"
        try:
            wait_until(lambda: _ready(url), START_SECONDS, process, target.name)
        except Failed as error:
            raise Failed(f"{error}\n{path.read_text('utf-8', 'replace')[-1000:]}") from None
        yield process.pid, ports["port"]


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
