"""Headrace's policy: replicas for the load that is there, the backlog, and what arrives while a replica starts.

By Little's law `rate · service_seconds` requests are in flight when none waits, which says what a load needs before its queue
has grown; running requests say it where nothing is measured yet. A backlog asks for as much more as empties it in time, not for
a slot for each of its requests. Why not the queue alone: it reads zero as soon as there are enough replicas, and then
asks for the fewest (facts/planning.md, section 7: 82 to 84 % of requests within limits, at 2.5 times the GPU-hours).
"""

from dataclasses import dataclass, replace
from math import ceil, exp

from headrace.scaling.base import Decision, Move, Policy, Sample, State

_RATE_SECONDS, _SLOW_RATE_SECONDS = 30.0, 150.0
"""Time constants of the two running means of the arrival rate; their difference is the trend."""

_SERVICE_SECONDS = 60.0
"""The gateway's own mean is over about ten requests: too few to start replicas by."""

_RUNNING_SECONDS = 10.0
_LEAST_DRAIN_SECONDS = 30.0

_SPANS = 16
"""The memory of peaks has so many spans: it is bounded, and a peak is forgotten at most a sixteenth late."""

_ROUNDING = 1e-9
"""Needs that are whole but for the last bits are whole."""


def decide(policy: Policy, sample: Sample, state: State | None) -> tuple[Decision, State]:
    """How many replicas there should be now, and what to remember. `state` is None at the first call.

    The result is between `policy.least` and `policy.most`, and grows with each number of the sample that stands for load.
    Unknown numbers count as none on the way up and forbid the way down.
    """
    if state is None:
        state = _first(policy, sample)
    elif odd := _odd(policy, sample, state):
        return _held(policy, sample, state, odd)
    state = _learned(sample, state)
    need = _need(policy, sample, state)
    state = replace(state, now=sample.now, peaks=_peaks(policy, sample.now, state, need.replicas))
    move, replicas, why = _move(policy, sample, state, need)
    return Decision(replicas, move, why), _stepped(policy, sample.now, state, replicas)


def _first(policy: Policy, sample: Sample) -> State:
    """What is there was needed, as far as is known: as if its load had just been seen."""
    there = min(policy.most, max(policy.least, (sample.ready or 0) + (sample.starting or 0)))
    return State(sample.now, there, ((sample.now, there / (1 + policy.margin)),))


def _odd(policy: Policy, sample: Sample, state: State) -> str:
    """What is wrong with the clock, if something is."""
    if sample.now < state.now:
        return f"the clock went back by {state.now - sample.now:.0f} s"
    if sample.now - state.now > policy.stale_seconds:
        return f"nothing was measured for {sample.now - state.now:.0f} s"
    return ""


def _held(policy: Policy, sample: Sample, state: State, why: str) -> tuple[Decision, State]:
    """Hold, and let all that is remembered be of now: holding too long costs less than dropping what is needed."""
    replicas = min(policy.most, max(policy.least, state.replicas))
    peak = max((need for _, need in state.peaks), default=0.0)
    fresh = State(sample.now, replicas, ((sample.now, peak),), state.rate, state.slow_rate, state.service_seconds)
    return Decision(replicas, "hold", f"{why}: held at {replicas}"), fresh


def _learned(sample: Sample, state: State) -> State:
    """Arrival rates and idleness with this sample in them."""
    used = bool(sample.waiting or sample.running or sample.arrivals)
    unknown = None in (sample.waiting, sample.running, sample.arrivals)
    idle_since = None if used or unknown else sample.now if state.idle_since is None else state.idle_since
    seconds = sample.now - state.now
    state = replace(
        state, idle_since=idle_since, service_seconds=_service(sample, state, seconds), running=_running(sample, state, seconds)
    )
    if sample.arrivals is None or seconds <= 0:
        return state
    rate, since = sample.arrivals / seconds, state.now if state.since is None else state.since
    # Both begin at zero, because one early burst is no rate; and alike, because a beginning is no trend.
    slow_seconds = min(_SLOW_RATE_SECONDS, max(_RATE_SECONDS, sample.now - since))
    return replace(
        state,
        since=since,
        rate=_mean(state.rate or 0.0, rate, seconds / _RATE_SECONDS),
        slow_rate=_mean(state.slow_rate or 0.0, rate, seconds / slow_seconds),
    )


def _service(sample: Sample, state: State, seconds: float) -> float | None:
    """The time that requests hold a slot, smoothed; the last known one while there is none."""
    if not sample.service_seconds:
        return state.service_seconds
    if state.service_seconds is None:
        return sample.service_seconds
    return _mean(state.service_seconds, sample.service_seconds, seconds / _SERVICE_SECONDS)


def _running(sample: Sample, state: State, seconds: float) -> float | None:
    """Requests in flight, smoothed: a peak that is shorter than a start is over before a replica could help."""
    if sample.running is None or state.running is None:
        return state.running if sample.running is None else float(sample.running)
    return _mean(state.running, sample.running, seconds / _RUNNING_SECONDS)


def _mean(mean: float, value: float, spans: float) -> float:
    return mean + (1 - exp(-spans)) * (value - mean)


@dataclass(frozen=True, slots=True)
class _Need:
    """Replicas that the load asks for, not rounded, and in words why."""

    replicas: float
    why: str


def _need(policy: Policy, sample: Sample, state: State) -> _Need:
    slots = sample.slots or policy.slots
    waiting, running = sample.waiting or 0, sample.running or 0
    words = [f"{_known(sample.waiting)} waiting", f"{_known(sample.running)} running"]
    aim = slots * policy.utilisation
    excess = max(0, waiting - policy.queue * state.replicas)
    if state.service_seconds is None or state.rate is None:
        return _Need((running + excess) / aim, f"{', '.join(words)}, {aim:.3g} in flight per replica")
    seconds = state.service_seconds
    rate = _expected(policy, sample, state)
    backlog = excess + _growth(policy, sample, state, rate, slots / seconds)
    drain = max(_LEAST_DRAIN_SECONDS, policy.drain * _cold(policy, sample))
    need = max(state.running or 0.0, rate * seconds) / aim + backlog * seconds / slots / drain
    words += [f"{rate:.3g} a second expected for {seconds:.3g} s each", f"{aim:.3g} in flight per replica"]
    if backlog > 0:
        words.insert(2, f"a backlog of {backlog:.0f} to be gone in {drain:.0f} s")
    return _Need(need, ", ".join(words))


def _expected(policy: Policy, sample: Sample, state: State) -> float:
    """Requests per second when a replica that is started now is ready: the rate, and a part of its growth if it grows."""
    rate, slow = state.rate or 0.0, state.slow_rate or 0.0
    slope = max(0.0, rate - slow) / (_SLOW_RATE_SECONDS - _RATE_SECONDS)
    ahead = min(_SLOW_RATE_SECONDS, _cold(policy, sample))
    return rate + policy.trend * slope * ahead


def _growth(policy: Policy, sample: Sample, state: State, rate: float, per_replica: float) -> float:
    """Requests by which the queue grows during one cold start; replicas that start already help for half of it."""
    ready = state.replicas if sample.ready is None else sample.ready
    coming = ready + (sample.starting or 0) / 2
    return max(0.0, rate - coming * per_replica) * _cold(policy, sample)


def _cold(policy: Policy, sample: Sample) -> float:
    return policy.cold_start_seconds if sample.cold_start_seconds is None else sample.cold_start_seconds


def _peaks(policy: Policy, now: float, state: State, need: float) -> tuple[tuple[float, float], ...]:
    """The largest needs by spans of the window, this one among them."""
    span = policy.window_seconds / _SPANS
    kept = [(since, peak) for since, peak in state.peaks if since + span > now - policy.window_seconds]
    if kept and now < kept[-1][0] + span:
        since, peak = kept.pop()
        return (*kept, (since, max(peak, need)))
    return (*kept, (now, need))


def _move(policy: Policy, sample: Sample, state: State, need: _Need) -> tuple[Move, int, str]:
    """The move, the replicas after it, and why."""
    replicas = min(policy.most, max(policy.least, state.replicas))
    if _idle(policy, state):
        move: Move = "sleep" if replicas else "hold"
        return move, 0, f"unused for {sample.now - (state.idle_since or sample.now):.0f} s"
    wanted = _bounded(policy, need.replicas)
    if replicas == 0:
        used = bool(sample.waiting or sample.running or sample.arrivals)
        return ("wake", _up(policy, state, 0, max(1, wanted)), need.why) if used else ("hold", 0, "asleep, and nobody asks")
    if wanted > replicas:
        return "up", _up(policy, state, replicas, wanted), need.why
    return _down(policy, sample, state, replicas, need)


def _idle(policy: Policy, state: State) -> bool:
    return policy.least == 0 and state.idle_since is not None and state.now - state.idle_since >= policy.idle_seconds


def _bounded(policy: Policy, need: float) -> int:
    return min(policy.most, max(policy.least, 1, ceil(need - _ROUNDING)))


def _up(policy: Policy, state: State, replicas: int, wanted: int) -> int:
    since, base = state.rose_from or (state.now, replicas)
    if state.now - since >= policy.up_seconds:
        base = replicas
    return max(replicas, min(wanted, policy.most, base + max(policy.up_least, base)))


def _down(policy: Policy, sample: Sample, state: State, replicas: int, need: _Need) -> tuple[Move, int, str]:
    if unknown := [name for name in ("waiting", "running", "arrivals", "ready") if getattr(sample, name) is None]:
        return "hold", replicas, f"{' and '.join(unknown)} unknown: held at {replicas}"
    peak = max(need for _, need in state.peaks)
    wanted = _bounded(policy, peak * (1 + policy.margin))
    if wanted >= replicas:
        return "hold", replicas, need.why
    since, base = state.fell_from or (state.now, replicas)
    if state.now - since >= policy.down_seconds:
        base = replicas
    after = min(replicas, max(wanted, base - max(1, int(base * policy.down_share))))
    if after == replicas:
        return "hold", replicas, f"{need.why}: {wanted} would do, one step in {policy.down_seconds:.0f} s"
    return "down", after, f"the most of the last {policy.window_seconds:.0f} s needs {wanted} ({peak:.3g}): {need.why}"


def _stepped(policy: Policy, now: float, state: State, replicas: int) -> State:
    """The state after the move, with the periods of the step limits begun or over."""

    def period(begun: tuple[float, int] | None, moved: bool, seconds: float) -> tuple[float, int] | None:
        if begun is not None and now - begun[0] < seconds:
            return begun
        return (now, state.replicas) if moved else None

    return replace(
        state,
        replicas=replicas,
        rose_from=period(state.rose_from, replicas > state.replicas, policy.up_seconds),
        fell_from=period(state.fell_from, replicas < state.replicas, policy.down_seconds),
    )


def _known(count: int | None) -> str:
    return "unknown" if count is None else str(count)
