"""Real gateways with one real Redis, under load: together they let in what one would, and no absence fails a request."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("redis")

from headrace.key_store import Store, Stored
from tests.e2e.conftest import Served, eventually
from tests.redis_server import Redis, needs_redis, running

pytestmark = needs_redis
RPM = 120
BODY = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4})


@pytest.fixture
def engine() -> Iterator[str]:
    """The address of a fake engine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "headrace.testing.engine", "--port", str(port), "--slots", "32", "--tokens", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


class Load:
    """Clients of several gateways, each asking again as soon as it is answered."""

    def __init__(self, gateways: list[Served], secret: str, clients: int = 4) -> None:
        self.counts: Counter[int | str] = Counter()
        self.began = time.monotonic()
        self._secret, self._over = secret, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(one.url,)) for one in gateways for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, url: str) -> None:
        client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        while not self._over.is_set():
            try:
                headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
                client.request("POST", "/v1/chat/completions", BODY, headers)
                answer = client.getresponse()
                answer.read()
                self.counts[answer.status] += 1
            except OSError as error:
                self.counts[repr(error)] += 1
                return
        client.close()

    def end(self) -> float:
        """How long it lasted, in seconds."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        return time.monotonic() - self.began


def started(
    serve: Callable[..., Served], folder: Path, redis: Redis, engine: str, gateways: int
) -> tuple[list[Served], dict[str, str]]:
    keys = Store(folder / "keys.json")
    secrets = {"load": keys.add(Stored("load", "", rpm=RPM)), "ops": keys.add(Stored("ops", "", metrics=True))}
    text = f"models: {{chat: {{url: '{engine}', slots: 32}}}}\ngateway: {{keys: 'file:keys.json', redis: '{redis.url}'}}\n"
    found = [serve(yaml=text) for _ in range(gateways)]
    for one in found:
        assert one.url
    return found, secrets


def metric(served: Served, secret: str, name: str) -> float:
    client = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
    client.request("GET", "/metrics", headers={"Authorization": f"Bearer {secret}"})
    page = client.getresponse().read().decode()
    client.close()
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name + " "))


@pytest.mark.parametrize("gateways", [2, 3])
def test_gateways_with_one_redis_let_in_together_what_one_would(
    serve: Callable[..., Served], tmp_path: Path, engine: str, gateways: int
) -> None:
    with running(tmp_path) as redis:
        found, secrets = started(serve, tmp_path, redis, engine, gateways)
        load = Load(found, secrets["load"])
        eventually(lambda: load.counts[200] >= RPM, "a minute's worth at once", 60)
        eventually(lambda: load.counts[429] >= 100, "more is refused", 60)
        lasted = load.end()
        assert set(load.counts) == {200, 429}, load.counts
        assert RPM <= load.counts[200] <= RPM * (1 + lasted / 60) + 1, (load.counts, lasted)
        assert [metric(one, secrets["ops"], "headrace_limits_shared") for one in found] == [1.0] * gateways
        assert all("is away" not in one.output for one in found)


def test_a_redis_that_goes_and_comes_back_fails_no_request(serve: Callable[..., Served], tmp_path: Path, engine: str) -> None:
    with running(tmp_path) as redis:
        found, secrets = started(serve, tmp_path, redis, engine, 2)
        begun = time.monotonic()
        load = Load(found, secrets["load"], clients=2)
        eventually(lambda: load.counts[200] >= 20, "it is shared", 60)
        redis.stop()
        for one in found:
            one.wait_for("is away")
        assert metric(found[0], secrets["ops"], "headrace_limits_shared") == 0.0
        assert metric(found[0], secrets["ops"], "headrace_limits_shared_failures_total") >= 1
        before = load.counts[200] + load.counts[429]
        eventually(lambda: load.counts[200] + load.counts[429] >= before + 50, "answers go on", 60)
        redis.start()
        for one in found:
            one.wait_for("answers again")
        before = load.counts[200] + load.counts[429]
        eventually(lambda: load.counts[200] + load.counts[429] >= before + 50, "and on", 60)
        load.end()
        assert set(load.counts) <= {200, 429}, load.counts
        refilled = 2 * RPM * (time.monotonic() - begun) / 60
        assert load.counts[200] <= 3 * RPM + refilled, "each by itself at most, while it was away"
        assert all(one.output.count("is away") == 1 for one in found)
