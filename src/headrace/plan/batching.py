"""Continuous batching as a discrete-event simulation: what queueing does to TTFT, TPOT and tokens per second.

It follows vLLM's V1 scheduler (vllm/v1/core/sched/scheduler.py, 0.11): every step decodes one token for each running request and
fills what is left of its token budget with chunks of prompts, first come first served. One thing is simpler: a request is
admitted when its whole prompt and answer fit into the KV pool, so that none is ever preempted.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil, inf, log

from headrace.errors import PlanError

StepSeconds = Callable[[int, float, int], float]
"""(requests that decode, their mean context in tokens, prompt tokens beside them) → seconds of the step."""

_CONTEXT_GRAIN = 32
"""Contexts are rounded to this many tokens, and at most this many steps are taken at once: the step time hardly changes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine is started with: vLLM's max_num_seqs and max_num_batched_tokens, and the tokens of its KV pool."""

    requests: int = 256
    step_tokens: int = 8192
    pool_tokens: float = inf


@dataclass(frozen=True, slots=True)
class Request:
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Closed:
    """So many clients, each of which sends its next request when it has its answer."""

    concurrency: int


@dataclass(frozen=True, slots=True)
class Poisson:
    """Requests per second that come independently of each other."""

    rate: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How a quantity is distributed over requests, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the clients saw. `busy` is the share of time in which a step ran, `occupancy` the mean share of request places used.

    `queued` is the time from arrival to admission, part of `ttft`; `most_waiting` the longest queue. `tpot` is over requests with
    more than one token. Above a `busy` of about 0.99 with Poisson arrivals the queue grows as long as the simulation runs.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    tokens_per_second: float
    ttft: Spread
    tpot: Spread
    total: Spread
    queued: Spread
    busy: float
    occupancy: float
    most_waiting: int


def simulate(
    requests: Sequence[Request],
    arrivals: Closed | Poisson,
    limits: Limits,
    step_seconds: StepSeconds,
    uniform: Callable[[], float],
    first_seconds: float = 0.0,
) -> Outcome:
    """Serve all requests in order of arrival. `uniform` gives numbers in [0, 1) and is asked for Poisson arrivals only.

    `first_seconds` is added to every first token: what tokenizer, HTTP and scheduler take outside the steps. Raises PlanError for
    a request that can never fit, and for limits that admit none.
    """
    _check(requests, arrivals, limits)
    engine = _Engine(limits, step_seconds)
    if isinstance(arrivals, Poisson):
        _run(engine, _poisson(requests, arrivals.rate, uniform))
    else:
        _run_closed(engine, requests, arrivals.concurrency)
    return _outcome(engine, first_seconds)


@dataclass(slots=True)
class _Flight:
    """One request on its way: when it came, was admitted, had its first and its last token."""

    request: Request
    arrived: float
    unread: int
    admitted: float = 0.0
    first: float = 0.0
    done: float = 0.0


@dataclass(slots=True)
class _Engine:
    """The scheduler's state. Times are seconds since the start; `steps` counts decode steps, by which answers end."""

    limits: Limits
    step_seconds: StepSeconds
    now: float = 0.0
    steps: int = 0
    waiting: deque[_Flight] = field(default_factory=deque)
    reading: deque[_Flight] = field(default_factory=deque)
    ends: list[tuple[int, int, _Flight]] = field(default_factory=list)
    context: int = 0
    pool: int = 0
    finished: list[_Flight] = field(default_factory=list)
    admissions: int = 0
    busy: float = 0.0
    occupied: float = 0.0
    most_waiting: int = 0
    known: dict[tuple[int, int, int], float] = field(default_factory=dict)

    @property
    def admitted(self) -> int:
        return len(self.reading) + len(self.ends)

    def arrive(self, request: Request, when: float) -> None:
        self.waiting.append(_Flight(request, when, request.prompt))
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def admit(self) -> None:
        while self.waiting and self._fits(self.waiting[0].request):
            flight = self.waiting.popleft()
            flight.admitted = self.now
            self.pool += flight.request.prompt + flight.request.output
            self.reading.append(flight)

    def advance(self, until: float) -> None:
        """One step with prompts in it, or as many plain ones as pass before something changes or `until`."""
        if self.reading:
            self._step_with_prompts()
        else:
            self._steps(until)
        while self.ends and self.ends[0][0] <= self.steps:
            self._finish(heappop(self.ends)[2])

    def _fits(self, request: Request) -> bool:
        room = self.limits.pool_tokens - self.pool
        return self.admitted < self.limits.requests and request.prompt + request.output <= room

    def _step_with_prompts(self) -> None:
        budget, read, complete = max(1, self.limits.step_tokens - len(self.ends)), 0, []
        while self.reading and read < budget:
            flight = self.reading[0]
            chunk = min(flight.unread, budget - read)
            flight.unread -= chunk
            read += chunk
            if flight.unread:
                break
            complete.append(self.reading.popleft())
        self._pass(1, read, len(complete))
        for flight in complete:
            self._answer(flight)

    def _steps(self, until: float) -> None:
        count = min(self.ends[0][0] - self.steps, _CONTEXT_GRAIN)
        if until < inf:
            count = min(count, max(1, ceil((until - self.now) / self._seconds(0))))
        self._pass(count, 0, 0)

    def _pass(self, count: int, read: int, complete: int) -> None:
        seconds = count * self._seconds(read)
        self.now += seconds
        self.busy += seconds
        self.occupied += seconds * (self.admitted + complete)
        self.steps += count
        self.context += count * len(self.ends)

    def _answer(self, flight: _Flight) -> None:
        flight.first = self.now
        self.admissions += 1
        self.context += flight.request.prompt + 1
        heappush(self.ends, (self.steps + flight.request.output - 1, self.admissions, flight))

    def _finish(self, flight: _Flight) -> None:
        flight.done = self.now
        self.pool -= flight.request.prompt + flight.request.output
        self.context -= flight.request.prompt + flight.request.output
        self.finished.append(flight)

    def _seconds(self, read: int) -> float:
        batch = len(self.ends)
        grains = self.context // (batch * _CONTEXT_GRAIN) if batch else 0
        key = (batch, grains, read)
        if key not in self.known:
            self.known[key] = self.step_seconds(batch, grains * _CONTEXT_GRAIN, read)
        return self.known[key]


def _poisson(requests: Sequence[Request], rate: float, uniform: Callable[[], float]) -> Iterator[tuple[float, Request]]:
    now = 0.0
    for request in requests:
        now -= log(1 - uniform()) / rate
        yield now, request


def _run(engine: _Engine, arrivals: Iterator[tuple[float, Request]]) -> None:
    coming = next(arrivals, None)
    while coming or engine.waiting or engine.admitted:
        if coming and not engine.waiting and not engine.admitted:
            engine.now = max(engine.now, coming[0])
        while coming and coming[0] <= engine.now:
            engine.arrive(coming[1], coming[0])
            coming = next(arrivals, None)
        engine.admit()
        engine.advance(coming[0] if coming else inf)


def _run_closed(engine: _Engine, requests: Sequence[Request], concurrency: int) -> None:
    coming = iter(requests)
    for request in requests[:concurrency]:
        engine.arrive(request, 0.0)
        next(coming)
    while engine.waiting or engine.admitted:
        engine.admit()
        done = len(engine.finished)
        engine.advance(inf)
        for _ in range(len(engine.finished) - done):
            following = next(coming, None)
            if following:
                engine.arrive(following, engine.now)


def _outcome(engine: _Engine, first_seconds: float) -> Outcome:
    flights = engine.finished
    output = sum(flight.request.output for flight in flights)
    many = [flight for flight in flights if flight.request.output > 1]
    return Outcome(
        requests=len(flights),
        prompt_tokens=sum(flight.request.prompt for flight in flights),
        output_tokens=output,
        seconds=engine.now,
        tokens_per_second=output / engine.now,
        ttft=_spread([flight.first - flight.arrived + first_seconds for flight in flights]),
        tpot=_spread([(flight.done - flight.first) / (flight.request.output - 1) for flight in many]),
        total=_spread([flight.done - flight.arrived + first_seconds for flight in flights]),
        queued=_spread([flight.admitted - flight.arrived for flight in flights]),
        busy=engine.busy / engine.now,
        occupancy=engine.occupied / engine.now / engine.limits.requests,
        most_waiting=engine.most_waiting,
    )


def _spread(values: list[float]) -> Spread:
    ordered = sorted(values) or [0.0]

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Spread(sum(ordered) / len(ordered), at(0.5), at(0.9), at(0.99))


def _check(requests: Sequence[Request], arrivals: Closed | Poisson, limits: Limits) -> None:
    if not requests:
        raise PlanError("There is nothing to simulate: no requests.")
    if min(min(request.prompt, request.output) for request in requests) < 1:
        raise PlanError("A simulated request needs at least 1 prompt token and 1 output token.")
    most = max(request.prompt + request.output for request in requests)
    if most > limits.pool_tokens:
        raise PlanError(f"A request of {most} tokens can never fit into a KV pool of {limits.pool_tokens:.0f} tokens.")
    asked = arrivals.concurrency if isinstance(arrivals, Closed) else arrivals.rate
    if asked <= 0 or limits.requests < 1 or limits.step_tokens < 1:
        raise PlanError("A simulation needs arrivals and limits above 0.")
