"""Kills of replicas in the middle of real streams: how many clients never notice, how many get an error, how many are deceived.

    python benchmarks/resume.py WEIGHTS.gguf [--kills N] [--seconds LIMIT]

Two llama.cpp servers, Headrace's gateway in this process, streams at temperature 0: chats and completions in turn. Each kill is a
SIGKILL of the replica that has the stream, at a token drawn by a fixed seed; then it is started anew. Complete answers are the
uninterrupted one to the last character (never noticed), or the same up to the kill and then, with the same usage, in other words:
a prompt is not computed in the same order as token by token, so near ties may fall otherwise. Anything else that says that it is
complete is different; what ends without an error and without its end is cut. Of these two there must be none.
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
from itertools import pairwise
from pathlib import Path

from headrace.engines import llamacpp
from headrace.engines.base import Placement
from headrace.gateway.gateway import Gateway, Limits
from headrace.traffic import Endpoint, ModelStatus

TOKENS = 48
PROMPT = "Write a long story about a lighthouse, a storm and a cat."


class Replica:
    """A llama.cpp server that is started again when it was killed."""

    def __init__(self, name: str, weights: str, folder: Path) -> None:
        self.name, self.weights, self.path = name, weights, folder / f"{name}.sock"
        self.process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> Endpoint:
        engine = llamacpp.ENGINE
        return Endpoint(self.name, "chat", f"unix:{self.path}", 2, "chat", engine.folds, continues=engine.continues)

    async def start(self) -> None:
        placement = Placement("chat", "llamacpp", "generate", self.weights, 512, 2, 1, 0)
        _, *rest = llamacpp.launch(placement, f"unix:{self.path}").argv
        self.path.unlink(missing_ok=True)
        nowhere, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE  # it ends when the pipe does
        self.process = await asyncio.create_subprocess_exec(sys.executable, *rest, stdin=pipe, stdout=nowhere, stderr=nowhere)
        while not await self._ready():
            if self.process.returncode is not None:
                raise SystemExit(f"{self.name} ended with {self.process.returncode}")
            await asyncio.sleep(0.05)

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


async def stream(port: int, kind: str, each=lambda number, text: None) -> tuple[str, str, object]:
    """(how it ended, text, usage); `each` is called with the number of every event that has text, and all text until then."""
    body = {"model": "chat", "max_tokens": TOKENS, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
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
    replicas = {name: Replica(name, asked.weights, folder) for name in ("chat-1", "chat-2")}
    gateway = Gateway(Limits(8, 60.0, 1 << 20), [ModelStatus("chat", "generate", "ready")], {}, None)
    counts: Counter[str] = Counter()
    draw, began, pauses = random.Random(asked.seed), time.monotonic(), []
    try:
        for replica in replicas.values():
            await replica.start()

        def tell() -> None:
            up = [each.endpoint for each in replicas.values() if each.process and each.process.returncode is None]
            gateway.update([ModelStatus("chat", "generate", "ready")], up)

        tell()
        _, port = await gateway.listen("127.0.0.1", 0)
        wanted = {kind: await stream(port, kind) for kind in ("chat", "completions")}
        print({kind: (end, usage) for kind, (end, _, usage) in wanted.items()})
        if any(end != "whole" for end, _, _ in wanted.values()):
            raise SystemExit(f"Without kills: {wanted}")
        while counts["kills"] < asked.kills and time.monotonic() < began + asked.seconds:
            kind, at, gaps = ("chat", "completions")[counts["kills"] % 2], draw.randrange(1, TOKENS - 2), [time.monotonic()]
            victims: list[Replica] = []
            text_at: list[str] = []

            def each(number: int, text: str, at=at, victims=victims, gaps=gaps, text_at=text_at) -> None:
                gaps.append(time.monotonic())
                if number == at:
                    text_at.append(text)
                    name = next(name for name, busy in gateway.models["chat"].queue.running.items() if busy)
                    victims.append(replicas[name])
                    victims[0].process.send_signal(signal.SIGKILL)

            end, text, usage = await stream(port, kind, each)
            counts["kills"] += 1
            counts["not in mid-stream"] += not victims
            _, right, count = wanted[kind]
            same = text == right and usage == count
            seam = len(text_at[0]) if text_at else 0
            other = "other words" if text[:seam] == right[:seam] and usage == count else "different"
            counts["never noticed" if end == "whole" and same else other if end == "whole" else end] += 1
            pauses.append(max((after - before for before, after in pairwise(gaps[1:])), default=0.0))
            if not same:
                print(f"{end}: {kind} killed at {at}: {text!r} {usage}, not {right!r} {count}")
            for victim in victims:
                await victim.process.wait()
                tell()
                await victim.start()
                tell()
    finally:
        gateway.close()
        for replica in replicas.values():
            await replica.kill()
    resumed, pauses = gateway.models["chat"].stats.resumed, sorted(pauses)
    names = ("kills", "not in mid-stream", "never noticed", "other words", "different", "error", "cut")
    print("\n".join(f"{name:20}{counts[name]:6}" for name in names) + f"\n{'resumed':20}{resumed:6}")
    print(f"longest gap in a stream: median {pauses[len(pauses) // 2]:.2f} s, worst {pauses[-1]:.2f} s")
    return int(counts["cut"] + counts["different"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a small GGUF")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=900.0, help="stop after so long")
    parser.add_argument("--seed", type=int, default=8, help="draws the tokens at which replicas are killed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        return asyncio.run(measure(asked, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
