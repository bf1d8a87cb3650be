"""A soak of a real `headrace serve`: mixed load, killed replicas, rude clients and changing keys, for minutes or hours.

    python benchmarks/soak.py [--minutes 30] [--clients 24]

Every request must end in a whole answer, a clear error, or its own client's leaving; the gateway must have counted each; its
memory and descriptors must stay where they were. Exits with 1 otherwise. README.md tells more.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import mean

from soak_tools.clients import Clients

from headrace.gateway.upstream import IDLE_SECONDS

FAKE = [sys.executable, "-P", "-m", "headrace.testing.engine", "--port", "{port}", "--tokens", "60"]
KILL_SECONDS = 35.0
"""Between kills, in turn: none comes back from the dead so often that it would be given up."""
KEYS_SECONDS = 15.0
SAMPLE_SECONDS = 1.0
GROWTH_BYTES = 12 << 20
"""By how much memory may be more in the last third than in the one before: allocators breathe."""
SPARE = 4
"""By how many descriptors there may be more once all is quiet again."""


@dataclass
class Watch:
    """What is looked at beside the load."""

    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    kills: int = 0
    changes: int = 0


class Served:
    """`headrace serve` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin = self.key("admin", "--admin")
        self.process: subprocess.Popen[str]
        self.port = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        argv = [sys.executable, "-m", "headrace.cli", "serve", "headrace.yaml"]
        with (self.folder / "log").open("w+") as log:
            self.process = subprocess.Popen(argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)
            try:
                self._wait()
                yield
            finally:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(60)

    def _wait(self) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            if found := re.search(r"Listening on http://127\.0\.0\.1:(\d+)", self.said()):
                self.port = int(found[1])
                if all(sum(replica["state"] == "ready" for replica in model["replicas"]) for model in self.models()):
                    return
            time.sleep(0.1)
        raise SystemExit(f"It does not serve:\n{self.said()[-2000:]}")

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def key(self, name: str, *more: str) -> str:
        """A new key."""
        done = self._headrace("key", "add", "--name", name, *more, "--file", "keys.json")
        found = re.search(r"hr-\S+", done)
        assert found, done
        return found[0]

    def revoke(self, name: str) -> None:
        self._headrace("key", "revoke", name, "--file", "keys.json")

    def _headrace(self, *words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "headrace.cli", *words], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"headrace {' '.join(words[:2])}: {done.stderr}")
        return done.stdout + done.stderr

    def get(self, path: str) -> str:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {self.admin}"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return str(answer.read().decode())

    def models(self) -> list[dict[str, object]]:
        return json.loads(self.get("/admin/status"))["models"]

    def counted(self) -> int:
        """Requests that asked for a model and are over, as the gateway counts them."""
        row = re.compile(r'^headrace_requests_total\{model="[^"]+",status="\d+"\} ([\d.e+]+)', re.MULTILINE)
        return int(sum(map(float, row.findall(self.get("/metrics")))))

    def memory(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


# ---- what happens beside the load


async def kills(served: Served, watch: Watch, draw: Random, until: float) -> None:
    """SIGKILL for one replica after the other."""
    turn = 0
    while (wait := min(KILL_SECONDS * (0.8 + 0.4 * draw.random()), until - time.monotonic())) > 0:
        await asyncio.sleep(wait)
        models = await asyncio.to_thread(served.models)
        replicas = [replica for model in models for replica in model["replicas"]]
        pids = [replica["pid"] for replica in replicas if replica["state"] == "ready" and replica["pid"]]
        if len(pids) > 2 and time.monotonic() < until:
            os.kill(pids[turn % len(pids)], signal.SIGKILL)
            turn, watch.kills = turn + 1, watch.kills + 1


async def key_changes(served: Served, clients: Clients, watch: Watch, until: float) -> None:
    """A new key is made, then used; later the one before it is revoked."""
    number = 0
    while time.monotonic() + KEYS_SECONDS < until:
        await asyncio.sleep(KEYS_SECONDS)
        number += 1
        clients.keys.append(await asyncio.to_thread(served.key, f"soak-{number}"))
        await asyncio.sleep(3)
        old = clients.keys.pop(0)
        clients.revoked[old] = time.monotonic()
        await asyncio.to_thread(served.revoke, f"soak-{number - 1}")
        watch.changes += 1


async def sampled(served: Served, watch: Watch, until: float) -> None:
    while time.monotonic() < until:
        watch.memory.append(served.memory())
        watch.descriptors.append(served.descriptors())
        await asyncio.sleep(SAMPLE_SECONDS)


# ---- the run and its verdict


async def soak(served: Served, asked: argparse.Namespace) -> list[str]:
    """Run it; what was wrong."""
    draw, watch = Random(asked.seed), Watch()
    clients = Clients(served.port, draw)
    clients.keys.append(served.key("soak-0"))
    await asyncio.sleep(3)  # until the file of keys was read again
    idle = served.descriptors()
    until = time.monotonic() + asked.minutes * 60
    beside = (kills(served, watch, draw, until), key_changes(served, clients, watch, until), sampled(served, watch, until))
    await asyncio.gather(*(clients.work(until) for _ in range(asked.clients)), *beside)
    await _rests(served)
    wrong, counted = list(clients.wrong), served.counted()
    third = len(watch.memory) // 3
    before, after = mean(watch.memory[third : 2 * third] or [0]), mean(watch.memory[2 * third :] or [0])
    left = await _settled(served, idle)
    print("\n".join(f"{name:44}{count:8,}" for name, count in sorted(clients.outcomes.items())))
    print(f"{sum(clients.outcomes.values()):,} ended; {clients.valid:,} of them for a model, {counted:,} by the gateway's count")
    print(f"{watch.kills} kills, {watch.changes} changes of keys")
    print(f"memory: {before / 1e6:.1f} MB in the second third, {after / 1e6:.1f} MB in the last")
    print(f"descriptors: {idle} idle before, {max(watch.descriptors)} at most, {left} idle after")
    wrong += [f"the gateway counted {counted}, clients {clients.valid}"] if counted != clients.valid else []
    wrong += [f"memory grew by {(after - before) / 1e6:.1f} MB"] if after - before > GROWTH_BYTES else []
    wrong += [f"{left - idle} descriptors are left"] if left > idle + SPARE else []
    return wrong


async def _rests(served: Served) -> None:
    """Until nothing is running."""
    for _ in range(100):
        gauges = re.findall(r"^headrace_in_flight_requests\{[^}]*\} ([\d.]+)", served.get("/metrics"), re.MULTILINE)
        if not any(map(float, gauges)):
            return
        await asyncio.sleep(0.2)
    raise SystemExit(f"Requests are left in flight: {gauges}")


async def _settled(served: Served, few: int) -> int:
    """Descriptors once connections to engines have been idle for too long and are closed, or after ten seconds more than that."""
    for _ in range(int(2 * IDLE_SECONDS + 10)):
        if served.descriptors() <= few:
            break
        await asyncio.sleep(1)
    return served.descriptors()


def main() -> int:
    """Soak and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=24, help="at once, each asking on and on")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        folder = Path(name)
        command = json.dumps(FAKE)
        slow = json.dumps([*FAKE, "--token-seconds", "0.002"])
        (folder / "headrace.yaml").write_text(
            "models:\n"
            f"  chat: {{engine: {{custom: {{command: {slow}}}}}, memory: 60MB, slots: 4, replicas: 2}}\n"
            f"  vectors: {{engine: {{custom: {{command: {command}}}}}, memory: 60MB, slots: 4, replicas: 2, task: embed}}\n"
            'gateway: {listen: "127.0.0.1:0", keys: "file:keys.json", queue: {limit: 64, wait: 30s}}\n'
        )
        served = Served(folder)
        with served.running():
            wrong = asyncio.run(soak(served, asked))
    print("\n".join(wrong[:20] or ["Nothing was wrong."]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
