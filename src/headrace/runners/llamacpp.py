"""A llama.cpp server in a process of its own: `python -m headrace.runners.llamacpp SPEC`, with SPEC as JSON.

Runs inside a replica's process and imports nothing of Headrace. Exits with 3 when the model cannot be loaded, 2 when
the spec cannot be read, 0 when the process that started it is gone, or on SIGTERM once nothing runs any more.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from typing import Any

from headrace.runners.child import at_work, begin, fail

DRAIN_SECONDS = 600
"""Longest that requests may run on after SIGTERM; whoever sent it has a shorter limit of their own."""

STILL_SECONDS = 5.0
"""Longest that threads may be at work after the last request, before that is taken for spinning."""

_BUSY = (b"llamacpp:requests_processing ", b"llamacpp:requests_deferred ")
CACHE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 8}
"""Numbers of ggml_type in ggml.h."""

BRIEF_SPINS = "1000"
"""Looks of an idle thread before it sleeps; libgomp's own default, where it spins, is 300,000."""


def main() -> None:
    """Load the model, serve until told to stop. Does not return."""
    spec = begin()
    _waiting(spec["wait"])
    if not os.path.isfile(spec["model"]):
        fail(f"cannot load {spec['model']}: there is no such file")
    parameters = _parameters(spec)
    server = served(parameters, spec["model"])
    # Only now: the constructor holds the GIL, a handler would run late; until here SIGTERM kills, which is right.
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    print(f"serving {spec['name']} at {server.listening_address}", flush=True)
    told.wait()
    _drain(spec["address"], "".join(parameters.api_keys))
    os._exit(0)  # destroying the server waits for its threads, which have nothing left to do


def _drain(address: str, key: str) -> None:
    """Let nobody in any more and return once nothing runs; over TCP the door stays open, for it is llama.cpp's."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        address = f"unix:{path}.closing"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, address.removeprefix("unix:"))
    _await_idle(address, key)
    if address.startswith("unix:"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.removeprefix("unix:"))


def _await_idle(address: str, key: str) -> None:
    """Until nothing runs, waits or is written: the last bytes of an answer leave after its slot is free, by a thread that may
    have to wait for a core. Threads that spin without work are given up on.
    """
    until, since, idle = time.monotonic() + DRAIN_SECONDS, float("inf"), 0
    while idle < 2 and (now := time.monotonic()) < min(until, since + STILL_SECONDS):
        time.sleep(0.05)
        still = not at_work(os.getpid(), threading.get_native_id())  # before we give it work ourselves
        free = _idle(address, key)
        since = min(since, now) if free else float("inf")
        idle = idle + 1 if free and still else 0


def _idle(address: str, key: str) -> bool:
    """Whether the metrics page says that nothing runs and nothing waits; not when it cannot be had."""
    request = f"GET /metrics HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n"
    try:
        with _connection(address) as connection:
            connection.sendall(request.encode())
            page = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return False
    gauges = [line.split()[-1] for line in page.splitlines() if line.startswith(_BUSY)]
    return len(gauges) == len(_BUSY) and all(float(gauge) == 0 for gauge in gauges)


def _connection(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, _, port = address.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), 5)


def _waiting(wait: str) -> None:
    """What idle OpenMP threads do. libgomp reads it when it is loaded: before the import of xllamacpp."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        os.environ.pop(name, None)
    if wait == "passive":
        os.environ["OMP_WAIT_POLICY"] = "passive"
    elif wait == "brief":
        os.environ["GOMP_SPINCOUNT"] = BRIEF_SPINS


def _parameters(spec: dict[str, Any]) -> Any:
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = spec["model"]
    p.model_alias = {spec["name"]}
    listen(p, spec["address"])
    p.n_parallel = spec["slots"]
    p.n_ctx = spec["slots"] * spec["context"]  # the total; llama.cpp shares it out evenly
    for threads in (p.cpuparams, p.cpuparams_batch):
        threads.n_threads = spec["threads"]
        threads.poll = spec["poll"]
    p.cache_type_k = p.cache_type_v = CACHE_TYPES[spec["cache_type"]]
    p.n_ubatch = spec["batch"]
    p.n_batch = spec["batch"] if spec["embedding"] else max(p.n_batch, spec["batch"])
    p.embedding = spec["embedding"]  # the pooling is the one that the model's metadata names
    p.sleep_idle_seconds = spec.get("sleep", -1)  # -1: never
    _tame(p)
    return p


def listen(p: Any, address: str) -> None:
    """Where it listens, and the key that it asks for."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if os.path.exists(path):  # a socket left behind is fatal
            os.unlink(path)
        p.hostnames = [path]
    else:
        host, _, port = address.removeprefix("http://").rpartition(":")
        p.hostnames, p.port = [host], int(port)
    key = os.environ.pop("ENGINE_KEY", "")
    p.api_keys = [key] if key else []


def _tame(p: Any) -> None:
    """Defaults of a program run by hand that do not suit a replica."""
    p.endpoint_metrics = True
    p.ui = False
    p.cache_ram_mib = 0  # default: 8 GiB of prompt cache that no plan counts
    p.cache_idle_slots = False  # needs that cache
    p.sse_ping_interval = 1  # default 30 s; bounds how late a lost client is noticed in silence
    p.fit_params = False  # the plan decides context and slots, not the engine
    p.verbosity = 2  # errors and warnings; nothing per request


def served(p: Any, model: str) -> Any:
    """The server, once the model is loaded; ends the process where it cannot be."""
    import xllamacpp

    try:
        return xllamacpp.Server(p)  # returns when the model is loaded; until then HTTP says 503
    except RuntimeError as error:  # always "Failed to init server": llama.cpp says why on stderr, from a thread of its own
        time.sleep(0.1)
        fail(f"cannot load {model}: {error} (llama.cpp gives the cause in the lines before)")


if __name__ == "__main__":
    main()
