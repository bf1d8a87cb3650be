"""The fake engine as a program, `python -m headrace.testing.engine --socket PATH`, and as an Engine that a target can
start.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from headrace.engines import llamacpp
from headrace.engines.base import Engine, Installation, Launch, Placement
from headrace.testing.fake import FAULTS, FakeEngine

__all__ = ["FAULTS", "FakeEngine", "fake_engine", "main"]


def fake_engine(*flags: str, name: str = "fake", sockets: bool = True, grace: float = 5.0) -> Engine:
    """An Engine whose replicas are this program, started with `flags` besides what the placement says."""

    def launch(placement: Placement, address: str) -> Launch:
        where = ("--socket", address.removeprefix("unix:"))
        if not sockets:
            where = ("--port", address.rpartition(":")[2])
        size = ("--model", placement.model, "--slots", str(placement.slots), "--context", str(placement.context))
        argv = ("python", "-P", "-m", "headrace.testing.engine", *where, *size, *flags)
        return Launch(argv, key_variable="ENGINE_KEY")

    return Engine(
        name=name,
        title=name,
        tasks=("generate", "embed"),
        formats=("gguf",),
        installation=Installation("headrace", "headrace"),
        ready_path="/health",
        metrics_path="/metrics",
        folds=True,
        continues="prefill",
        sockets=lambda placement: sockets,
        refuse=lambda facts, task: None,
        overhead=lambda facts, placement: 0,
        launch=launch,
        read=llamacpp.read,
        grace_seconds=grace,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM, or until one of the faults of a process that were asked for."""
    asked = _parser().parse_args(arguments)
    if asked.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if asked.noise:
        _noise(asked.noise)
    if asked.child:
        subprocess.Popen(["sleep", "600"])
    print(asked.say, flush=True)
    if asked.exit_after == 0:
        sys.exit(asked.exit_code)
    asyncio.run(_serve(asked))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m headrace.testing.engine", description=main.__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", help="path of the Unix socket")
    where.add_argument("--port", type=int, help="port on 127.0.0.1; 0: a free one")
    parser.add_argument("--model", default="fake", help="what it calls its model")
    parser.add_argument("--slots", type=int, default=4, help="requests at once")
    parser.add_argument("--context", type=int, default=4096, help="words of the longest prompt")
    parser.add_argument("--tokens", type=int, default=16, help="words of the longest answer")
    parser.add_argument("--token-seconds", type=float, default=0.0, help="time of one word")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="how long it answers 503 first")
    parser.add_argument("--fault", help=f"of every request: {', '.join(FAULTS)}; with -once, of the first")
    parser.add_argument("--fault-every", type=int, default=1, metavar="N", help="the fault is of every Nth request only")
    parser.add_argument("--exit-after", type=int, metavar="N", help="exit at health check N+1; 0: before serving")
    parser.add_argument("--exit-code", type=int, default=1, help="with --exit-after")
    parser.add_argument("--hang-after", type=int, metavar="N", help="answer nothing from health check N+1 on")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--noise", type=int, default=0, metavar="BYTES", help="bytes that are no text, without a line end")
    parser.add_argument("--child", action="store_true", help="start a child process that stays")
    parser.add_argument("--say", default="fake engine", help="the first line of output")
    return parser


def _noise(size: int) -> None:
    sys.stdout.buffer.write(bytes(range(11, 256)) * (size // 245 + 1) + b"\n")
    sys.stdout.flush()


async def _serve(asked: argparse.Namespace) -> None:
    address = f"unix:{asked.socket}" if asked.socket else f"http://127.0.0.1:{asked.port}"
    settings = {
        name: getattr(asked, name) for name in ("model", "slots", "context", "tokens", "token_seconds", "fault", "fault_every")
    }
    engine = FakeEngine(address, key=os.environ.pop("ENGINE_KEY", None), **settings)
    engine.on_health = Trouble(engine, asked.hang_after, asked.exit_after, asked.exit_code)
    async with engine:
        print(f"serving {engine.model} at {engine.address}", flush=True)
        engine.loading = True
        await asyncio.sleep(asked.load_seconds)
        engine.loading = False
        await asyncio.Event().wait()


class Trouble:
    """Hangs or ends the process at a health check, counting those it answers when it is not loading."""

    def __init__(self, engine: FakeEngine, hang_after: int | None, exit_after: int | None, exit_code: int) -> None:
        self._engine, self._hang_after, self._exit_after = engine, hang_after, exit_after
        self._exit_code, self._checks = exit_code, 0

    def __call__(self) -> None:
        self._checks += not self._engine.loading
        if self._exit_after is not None and self._checks > self._exit_after:
            os._exit(self._exit_code)
        if self._hang_after is not None and self._checks > self._hang_after:
            self._engine.hanging = True


if __name__ == "__main__":
    main()
