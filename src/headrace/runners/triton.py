"""A Triton Inference Server: `python -P -m headrace.runners.triton SPEC`, with SPEC as JSON.

Runs in Headrace's own interpreter and starts the tritonserver of another environment as its child, with a model repository
that it writes, or with the user's as it is. Exits with 3 when the model cannot be loaded, 2 when the spec cannot be read, 1
when the server died, 0 on SIGTERM after the last answer or when the process that started it is gone.

tritonserver knows no keys. So whatever can change it is closed: loading and unloading (that is, running code) is only
possible over a Unix socket in a private folder, and shared memory, tracing and log settings not at all.
"""

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.runners import child
from headrace.runners.child import CANNOT_LOAD
from headrace.runners.triton_ask import busy, decoupled
from headrace.runners.triton_config import TEXT_INPUTS, TEXT_OUTPUTS, Config, Tensor, render
from headrace.runners.triton_environment import Environment, Unusable, asked, control
from headrace.runners.triton_folder import Folder, models
from headrace.runners.triton_server import Server, first

DIED = 1
CLOSED = "shared-memory,model-repository,trace,logging:headrace-closed=\r\n\r\n"
"""APIs that expect a header which HTTP cannot transport: nobody can call them."""

DRAIN_SECONDS = 600
"""Longest that requests may run on after SIGTERM; whoever sent it has a shorter limit of their own."""

COUNT_SECONDS = 0.2

MOST_DEATHS, DEATHS_SECONDS = 3, 60.0
"""A model whose process dies more often than that in a minute is not loaded again: whoever started us knows when to."""


class Told:
    """What we were told: to stop, and whether whoever started us is gone."""

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Headrace, which drains first
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # nothing is served yet
        self.orphaned = False
        kind = os.fstat(0).st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):  # started by hand, stdin is a terminal or /dev/null
            threading.Thread(target=self._await_end_of_stdin, daemon=True).start()

    def _await_end_of_stdin(self) -> None:
        """A pipe whose other end our parent holds: it ends when the parent does."""
        while os.read(0, 4096):
            pass
        self.orphaned = True
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve until told to stop. Does not return."""
    told, spec, folder = Told(), child.spec(), Folder()
    code = CANNOT_LOAD
    try:
        code = Run(spec, folder, told).result()
    except Unusable as error:
        print(f"cannot load {spec['model']}: {error}", file=sys.stderr, flush=True)
    finally:
        folder.remove()
    sys.exit(code)


class Run:
    """One life of a server."""

    def __init__(self, spec: Mapping[str, Any], folder: Folder, told: Told) -> None:
        self._spec, self._folder, self._told = spec, folder, told
        self._package = folder.package()
        self._alone = spec["kind"] != "repository"
        self._socket = str(folder.path / "control")
        self._port = int(spec["address"].rpartition(":")[2])
        self._decoupled: set[str] = set()
        self._deaths: dict[str, deque[float]] = {}
        self._threads = max(1, spec["threads"] // spec["instances"])
        self._names = [spec["name"]]
        self._environment = self._prepared()

    def result(self) -> int:
        """Serve; the exit code. Raises Unusable."""
        return asyncio.run(self._serve())

    # ---- before the start

    def _prepared(self) -> Environment:
        """The environment, once the model is in the repository of our folder."""
        spec, path = self._spec, self._spec["model"]
        if not os.path.exists(path):
            raise Unusable("there is no such file")
        if self._alone and "/" in spec["name"]:
            raise Unusable(f"Triton's models are folders, and {spec['name']} cannot be the name of one: take the slash out")
        kind = "" if spec["kind"] in ("repository", "gguf") else spec["kind"]
        environment, said = asked(spec["python"], self._package, kind, path, self._threads, self._settings())
        if not self._alone:
            self._names = _found(Path(path))
            _mirrored(self._folder, path)
            return environment
        for note in said.get("notes", ()):
            print(note, flush=True)
        config = self._text() if spec["kind"] == "gguf" else self._tensors(said)
        module = "gguf" if spec["kind"] == "gguf" else "infer"
        self._folder.write_model(
            spec["name"], render(config), f"from triton_models.{module} import TritonPythonModel as TritonPythonModel\n"
        )
        return environment

    def _settings(self) -> dict[str, str]:
        """What the spec may say besides, as text: for sklearn `pickle` and `trusted` types, for Python the `class`."""
        spec = self._spec
        return {
            "pickle": "true" if spec.get("pickle") is True else "false",
            "trusted": " ".join(spec.get("trusted", ())),
            "class": str(spec.get("class") or ""),
        }

    def _tensors(self, said: Mapping[str, Any]) -> Config:
        spec = self._spec
        return Config(
            "python",
            tuple(Tensor(each["name"], each["datatype"], tuple(each["dims"])) for each in said["inputs"]),
            tuple(Tensor(each["name"], each["datatype"], tuple(each["dims"])) for each in said["outputs"]),
            batch=spec["batch"] if said["batched"] else 0,
            delay_seconds=spec["delay_seconds"],
            queue=spec["queue"],
            instances=spec["instances"],
            parameters={
                "kind": spec["kind"],
                "weights": spec["model"],
                "threads": str(self._threads),
                "settings": json.dumps(self._settings()),
            },
        )

    def _text(self) -> Config:
        spec = self._spec
        parameters = {name: str(spec[name]) for name in ("slots", "context", "queue", "threads")}
        parameters |= {"weights": spec["model"], "port": str(self._port + 2)}
        return Config("python", TEXT_INPUTS, TEXT_OUTPUTS, decoupled=True, parameters=parameters)

    # ---- from the start to the end

    async def _serve(self) -> int:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        variables = self._environment.variables(self._folder.path, self._threads)
        server = await Server.started(self._argv(), variables)
        try:
            await first(server.opened, server.ended, stop)
            if stop.is_set():
                return 0
            await self._loaded(server)
            if server.ended.is_set():
                return _died(f"tritonserver {await server.how_it_ended()}")
            await self._say(server)
            return await self._until_over(server, stop)
        finally:
            server.end()

    def _argv(self) -> Sequence[str]:
        port = self._port
        written = ("--disable-auto-complete-config", "--exit-on-error=true") if self._alone else ("--exit-on-error=false",)
        return (
            self._environment.server,
            f"--model-repository={self._folder.repository}",
            f"--backend-directory={self._folder.backend(self._environment.packages, self._environment.version)}",
            f"--backend-config=python,shm-region-prefix-name={self._folder.name}-",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self._names),
            *written,
            "--strict-readiness=false",
            "--http-address=127.0.0.1",
            f"--http-port={port}",
            f"--http-restricted-api={CLOSED}",
            f"--grpc-address=unix:{self._socket}",
            "--grpc-port=1",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={port + 1}",
            "--metrics-interval-ms=1000",
            "--allow-gpu-metrics=false",
            f"--exit-timeout-secs={DRAIN_SECONDS}",
        )

    async def _loaded(self, server: Server) -> None:
        """Once it serves what could be loaded, or has ended. Raises Unusable when nothing could be loaded."""
        broken = server.log.broken
        while not (server.log.open or server.ended.is_set() or len(broken) >= len(self._names)):
            server.opened.clear()
            await first(server.opened, server.ended)
        if len(broken) >= len(self._names):
            raise Unusable(next(iter(broken.values())) if self._alone else f"no model could be loaded: {_listed(broken)}")

    async def _say(self, server: Server) -> None:
        server.look()
        if server.log.broken:
            print(f"not served: {_listed(server.log.broken)}", flush=True)
        served = [name for name in self._names if name not in server.log.broken]
        self._decoupled = {name for name in served if not self._alone and await asyncio.to_thread(decoupled, self._port, name)}
        print(f"serving {', '.join(served)} at {self._spec['address']}", flush=True)

    async def _until_over(self, server: Server, stop: asyncio.Event) -> int:
        death = asyncio.create_task(server.deaths.get())
        told = [asyncio.create_task(event.wait()) for event in (server.ended, stop)]
        try:
            while True:
                await asyncio.wait({death, *told}, return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    return await self._drained(server)
                if server.ended.is_set():
                    return _died(f"tritonserver {await server.how_it_ended()}")
                if cause := await self._again(server, death.result()):
                    return _died(cause)
                death = asyncio.create_task(server.deaths.get())
        finally:
            for task in (death, *told):
                task.cancel()
            await asyncio.gather(death, *told, return_exceptions=True)

    async def _drained(self, server: Server) -> int:
        """tritonserver would wait for idle connections until its time-out: so it is killed once everything is answered."""
        server.close_doors()
        if self._told.orphaned:
            return 0
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await (self._counted_out(server) if self._spec["kind"] == "gguf" else self._unloaded(server))
        except TimeoutError:
            print(f"not everything was answered within {DRAIN_SECONDS}s", flush=True)
        return _died(f"tritonserver {await server.how_it_ended()}") if server.crashed else 0

    async def _unloaded(self, server: Server) -> None:
        """Unloading waits for answers, and for nothing else. Decoupled models cannot be told to: tritonserver 2.51 then crashes
        (boost::interprocess::lock_exception) when one that has returned from `execute` answers.
        """
        unloading = await self._control("unload", *(name for name in self._names if name not in self._decoupled))
        try:
            await server.unloaded()
            await server.still()
        finally:
            if unloading.returncode is None:
                unloading.kill()
            await unloading.communicate()

    async def _counted_out(self, server: Server) -> None:
        """Until llama.cpp counts no requests, and none is on its way to it or back."""
        while not server.ended.is_set():
            try:
                if not await asyncio.to_thread(busy, self._port + 2):
                    await server.still()
                    if not await asyncio.to_thread(busy, self._port + 2):
                        return
            except OSError:  # the model is unloaded already, and tritonserver ends by itself
                pass
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.ended.wait(), COUNT_SECONDS)

    async def _again(self, server: Server, model: str) -> str | None:
        """Load a model anew whose process died; why that cannot be, where it cannot. Meanwhile Triton answers requests to it
        with `Stub process … is not healthy`, and to others as always.
        """
        now, deaths = time.monotonic(), self._deaths.setdefault(model, deque(maxlen=MOST_DEATHS))
        died = f"the process of model {model} died"
        if len(deaths) == MOST_DEATHS and now - deaths[0] < DEATHS_SECONDS:
            return f"{died} {MOST_DEATHS + 1} times within {now - deaths[0]:.0f}s"
        deaths.append(now)
        print(f"{died}: the model is loaded again", flush=True)
        server.leaves(model)
        reloading = await self._control("reload", model)
        _, error = await reloading.communicate()
        server.look()
        if reloading.returncode == 0:
            print(f"model {model} is back after {time.monotonic() - now:.1f}s", flush=True)
            return None
        cause = server.log.broken.get(model) or error.decode(errors="replace").strip()
        if self._alone:
            return f"{died} and it cannot be loaded again: {cause}"
        print(f"not served: {model} ({cause})", flush=True)
        return None

    async def _control(self, action: str, *names: str) -> asyncio.subprocess.Process:
        argv = control(self._environment.python, self._package, action, f"{self._socket}:1", *names)
        return await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)


def _found(repository: Path) -> list[str]:
    names = models(repository) if repository.is_dir() else []
    if not names:
        raise Unusable(
            "there is no model in it: a repository is a folder with a folder for each, with config.pbtxt and 1/model.py"
        )
    return names


def _mirrored(folder: Folder, repository: str) -> None:
    try:
        folder.mirror(Path(repository))
    except (OSError, RecursionError) as error:
        raise Unusable(f"it cannot be read: {' '.join(str(error).split())[:500]}") from error


def _listed(broken: Mapping[str, str]) -> str:
    return "; ".join(f"{name} ({cause})" for name, cause in broken.items())


def _died(cause: str) -> int:
    print(cause, file=sys.stderr, flush=True)
    return DIED


if __name__ == "__main__":
    main()
