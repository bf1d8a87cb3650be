"""A process that serves code of a test's own, and requests to it."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from engine_client import Answer, Exchange

from headrace.engines.base import Placement
from headrace.engines.custom import ENGINE
from headrace.targets.addresses import free_port

KEY = "s3cret"


class Process:
    """A replica of the custom engine: `log` is all that it wrote."""

    def __init__(self, folder: Path, code: str, task: str, options: dict, *, tcp: bool) -> None:
        self._folder = folder
        (folder / "model.py").write_text(textwrap.dedent(code))
        self.socket = folder / "replica.sock"
        self._log = folder / "log"
        placement = Placement("fraud", "custom", task, str(folder / "model.py"), 0, 16, 1, 0, options)
        self.url = f"http://127.0.0.1:{free_port()}" if tcp else f"unix:{self.socket}"
        launch = ENGINE.launch(placement, self.url)
        self.launch = replace(launch, argv=(sys.executable, *launch.argv[1:]))
        self.child: asyncio.subprocess.Process
        self._open: list[Exchange] = []

    async def start(self) -> None:
        with self._log.open("wb") as log:
            self.child = await asyncio.create_subprocess_exec(
                *self.launch.argv, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, env=os.environ | {"ENGINE_KEY": KEY}
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def said(self, text: str) -> None:
        """Until it wrote `text`."""
        async with asyncio.timeout(30):
            while text not in self.log:
                assert self.child.returncode is None, self.log
                await asyncio.sleep(0.01)

    async def over(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(30):
            return await self.child.wait()

    def terminate(self) -> None:
        self.child.send_signal(signal.SIGTERM)

    async def send(self, path: str, body=b"", headers: str = "", key: str = KEY, method: str = "POST") -> Exchange:
        """A request under way, on a connection of its own."""
        exchange = Exchange(*await asyncio.open_unix_connection(str(self.socket)))
        self._open.append(exchange)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        exchange.request(method, path, raw, f"Authorization: Bearer {key}\r\n{headers}")
        return exchange

    async def ask(self, path: str, body=b"", headers: str = "", key: str = KEY, method: str = "POST") -> Answer:
        return await (await self.send(path, body, headers, key, method)).until()

    async def predict(self, *instances, **more) -> Answer:
        return await self.ask("/v1/models/fraud:predict", {"instances": list(instances), **more})

    async def metric(self, name: str) -> float:
        page = (await self.ask("/metrics", method="GET")).body.decode()
        return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"headrace_engine_{name} "))

    async def until(self, name: str, value: float) -> None:
        """Until a metric has a value."""
        async with asyncio.timeout(30):
            while await self.metric(name) != value:
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for exchange in self._open:
            exchange.close()
        if self.child.returncode is None:
            self.child.kill()
        await self.child.wait()
        assert self.child.stdin
        self.child.stdin.close()


@asynccontextmanager
async def running(here: Path, code: str, task: str = "infer", *, ready: bool = True, tcp: bool = False, **options):
    """A Process that runs `code`, ready unless it is not to be."""
    process = Process(here, code, task, options, tcp=tcp)
    await process.start()
    try:
        if ready:
            await process.said("serving")
        yield process
    finally:
        await process.close()
