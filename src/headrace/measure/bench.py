"""A whole bench: look at the server, carry out one load after the other, put the numbers together."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from random import Random
from statistics import median
from time import monotonic

from headrace import __version__
from headrace.errors import UsageError
from headrace.foreground import connections, signalled
from headrace.measure import prompts, search
from headrace.measure.address import parse
from headrace.measure.arrivals import lasting, replayed, times
from headrace.measure.base import Load, Outcome, Report, Stage
from headrace.measure.client import Client
from headrace.measure.probe import Known, known, model
from headrace.measure.run import Asked, Length, Run
from headrace.measure.statistics import share
from headrace.measure.summary import summary
from headrace.measure.wish import Wish
from headrace.units import show_duration

_REPEATS = 3
"""How often one rate is tried while its share is within noise."""
_SAME_SIGNAL_SECONDS = 0.5
_START_USERS, _START_SECONDS, _START_SHARE = 8.0, 10.0, 0.7
_LEAST_REQUESTS, _MOST_DURATIONS = 10, 10
"""A trial lasts as long as so many requests take on average at its rate, at most so many times `duration`."""

Say = Callable[[str], None]
Tick = Callable[[str, Run], None]


def bench(wish: Wish, say: Say = lambda text: None, tick: Tick = lambda label, run: None) -> Report:
    """Measure; blocks until it is done. Ctrl-C ends it early, with what was measured until then. Raises HeadraceError.

    `say` gets a line when something begins; `tick` is called about once a second with the run that goes on.
    """
    connections()  # each request in flight is a descriptor
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.run(measured(wish, say, tick))
    result: Report = uvloop.run(measured(wish, say, tick))
    return result


async def measured(
    wish: Wish, say: Say = lambda text: None, tick: Tick = lambda label, run: None, stop: asyncio.Event | None = None
) -> Report:
    """The same on a loop that runs already. `stop` ends it early, instead of Ctrl-C."""
    if wish.find_rate and wish.slo is None:
        raise UsageError("--find-rate needs limits to keep.", "Add --slo ttft=500ms,tpot=50ms.")
    address = parse(wish.url)
    name, context = await asyncio.to_thread(model, address, wish.key, wish.model)
    path = "/chat/completions" if wish.api == "chat" else "/completions"
    async with Client(address, path, wish.key, stall=wish.stall, longest=wish.longest) as client:
        say(f"{name} at {address}: {described(wish)}")  # before the first request, which may take long
        found = await known(client, wish.api, name)
        work = _Bench(wish, client, name, context, found, say, tick)
        work.stop = stop or work.stop
        with nullcontext() if stop else _interrupt(work.stop):
            await work.all()
    return Report(
        version=__version__,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        url=str(address),
        model=name,
        settings=settings(wish),
        slo=wish.slo,
        stages=tuple(work.stages),
        found=work.found,
        found_rate=search.bracket(work.trials)[0] if work.trials else None,
        remarks=(*found.remarks, *work.remarks),
        interrupted=work.stop.is_set(),
    )


def described(wish: Wish) -> str:
    """The requests, in a sentence."""
    if wish.messages:
        return f"{len(wish.messages)} prompts of a file, up to {wish.output} tokens each where they say nothing."
    if wish.lengths is not None:
        return f"prompts and answers as long as those of a trace of {len(wish.lengths):,} requests."
    if all(load.kind == "trace" for load in wish.loads) and wish.loads and not wish.find_rate:
        return "prompts and answers as long as the trace's."
    shared = f", {wish.shared} of them the same in all" if wish.shared else ""
    return f"prompts of {wish.prompt} tokens{shared}, answers of {wish.output}."


def settings(wish: Wish) -> dict[str, str]:
    """What makes two reports comparable, as text."""
    length = f"{show_duration(wish.duration)} after {show_duration(wish.warmup)} of warm-up"
    return {
        "requests": described(wish),
        "measured": length + (f", or {wish.requests} requests" if wish.requests else ""),
        "api": wish.api,
        "seed": str(wish.seed),
    }


class _Bench:
    def __init__(self, wish: Wish, client: Client, name: str, context: int | None, found: Known, say: Say, tick: Tick) -> None:
        self._wish, self._client, self._name, self._known, self._say, self._tick = wish, client, name, found, say, tick
        self._context = wish.context or context
        self._random = Random(wish.seed)
        self._number = 1_000_000 * (wish.seed + 1)
        self._clipped = 0
        self._asked_of_file = 0
        self.stop = asyncio.Event()
        self.stages: list[Stage] = []
        self.trials: list[search.Trial] = []
        self._untold = ""  # why the search ended before it was over

    @property
    def found(self) -> str:
        """What a search found, in a sentence or two; empty where there was none."""
        if self.trials:
            return f"{search.verdict(self.trials)} {self._untold}".strip()
        return f"The highest rate is not known. {self._untold}" if self._untold else ""

    @property
    def remarks(self) -> Iterator[str]:
        """Of the whole bench."""
        if self._clipped:
            yield f"{self._clipped} requests were cut to fit the context of {self._context} tokens."
        if self._wish.messages and self._asked_of_file > len(self._wish.messages):
            yield "The file's prompts were asked more than once each: a prefix cache makes the later ones faster."

    async def all(self) -> None:
        if self._wish.find_rate:
            await self._search()
            return
        for load in self._wish.loads:
            if self.stop.is_set():
                break
            await self._stage(load)

    async def _stage(self, load: Load, duration: float | None = None) -> tuple[Stage, list[Outcome]]:
        """One load carried out: its numbers, and its requests with those of the warm-up."""
        wish = self._wish
        seconds = wish.duration if duration is None else duration
        if load.trace is not None and wish.duration <= 0:
            seconds = lasting(load.trace) / load.level
        self._say(f"{load.label}: {show_duration(wish.warmup)} of warm-up, then {show_duration(seconds)}")
        length = Length(wish.warmup, seconds, wish.requests, wish.drain)
        run = Run(self._client, load, length, self.stop, lambda running: self._tick(load.label, running))
        ran = await run.run(self._bodies(load), self._times(load))
        outcomes = [one for one in ran.outcomes if one.kind != "unfinished" or not self.stop.is_set()]
        stage = summary(load, outcomes, ran.window, wish.slo, ran.cpu, self._random.random)
        self.stages.append(stage)
        return stage, outcomes

    def _times(self, load: Load) -> Iterator[float] | None:
        if load.kind == "closed":
            return None
        if load.trace is not None:
            return (at for at, _, _ in replayed(load.trace, load.level))
        # Other gaps in every stage, so that a rate that is tried again is another sample; the same in every run.
        return times(load.level, load.process, Random(1000 * self._wish.seed + len(self.stages)).random)

    def _bodies(self, load: Load) -> Iterator[Asked]:
        wish = self._wish
        if wish.messages and load.trace is None:
            for prompt, limit in prompts.cycled(wish.messages, wish.output):
                self._asked_of_file += 1
                yield prompts.body(wish.api, self._name, prompt, limit, self._known.extra), limit
        for prompt_tokens, output in self._lengths(load):
            yield self._made(prompt_tokens, output)

    def _lengths(self, load: Load) -> Iterator[tuple[int, int]]:
        drawn = load.trace or self._wish.lengths
        if load.trace is not None:
            yield from ((prompt, output) for _, prompt, output in replayed(load.trace, load.level))
        while True:
            if drawn is None:
                yield self._wish.prompt, self._wish.output
            else:
                place = int(self._random.random() * len(drawn))
                yield drawn.prompt[place], drawn.output[place]

    def _made(self, prompt: int, output: int) -> Asked:
        if self._context and prompt + output > self._context:
            self._clipped += 1
            output = min(output, max(self._context // 2, self._context - prompt, 1))
            prompt = min(prompt, self._context - output)
        fit, shared = self._known.fit, self._wish.shared
        self._number += 1
        words = fit.words(max(1, prompt - 8) if self._context and prompt + output >= self._context else prompt)
        text = prompts.text(words, self._number, self._random.random, round(shared / fit.each))
        return prompts.body(self._wish.api, self._name, text, output, self._known.extra), output

    async def _search(self) -> None:
        rates = [load.level for load in self._wish.loads if load.kind == "open"]
        start = rates[0] if rates else await self._start_rate()
        while not (self._untold or self.stop.is_set()) and (rate := search.next_rate(start, self.trials)) is not None:
            await self._trial(rate)
        if self.found:
            self._say(self.found)

    async def _start_rate(self) -> float:
        """Near what the server does with a few at once. Where nothing is answered there is no search."""
        stage, outcomes = await self._stage(Load("closed", _START_USERS), min(self._wish.duration, _START_SECONDS))
        rate = stage.request_rate.value
        if not rate:  # an answer takes longer than all of the measured time: each user gets one in the time of one
            taken = [one.e2e for one in outcomes if one.kind in ("ok", "unfinished")]
            rate = _START_USERS / median(taken) if taken else 0.0
        if not rate and not self.stop.is_set():
            self._untold = f"Nothing was answered with {_START_USERS:g} at once; --rate says where to begin."
        return max(search.LEAST_RATE, _START_SHARE * rate)

    async def _trial(self, rate: float) -> None:
        """One rate, tried again while its share is within noise; all its tries count together."""
        assert self._wish.slo
        seconds = max(self._wish.duration, min(_LEAST_REQUESTS / rate, _MOST_DURATIONS * self._wish.duration))
        hits = count = 0
        for _ in range(_REPEATS):
            stage = (await self._stage(Load("open", rate, self._wish.process), seconds))[0]
            if self.stop.is_set() or stage.goodput is None:
                return
            hits += round(stage.goodput.share.value * stage.requests)
            count += stage.requests
            trial = search.Trial(rate, share(hits, count), stage.steady, self._wish.slo.share)
            if trial.sure:
                break
        if not count:
            self._untold = f"At {rate:.3g}/s too few requests were due to tell: take a longer --duration."
            return
        self.trials.append(trial)
        kept = f"{100 * trial.share.value:.1f} % of {count} kept the limits"
        self._say(f"  {rate:.3g}/s: {kept}: {'good' if trial.good else 'too much'}{'' if trial.sure else ' (within noise)'}")


def _interrupt(stop: asyncio.Event) -> AbstractContextManager[None]:
    """The first Ctrl-C stops the bench, and what was measured is told; a later one ends the program.

    What starts programs for others (timeout, uv) often sends one signal twice: a second one at once is the same.
    """
    pressed = 0.0

    def interrupted() -> None:
        nonlocal pressed
        if stop.is_set() and monotonic() - pressed > _SAME_SIGNAL_SECONDS:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        elif not stop.is_set():
            pressed = monotonic()
            stop.set()

    return signalled(interrupted, signal.SIGINT)
