"""A graduation as a state machine: (where it stands, what was seen, now) → where it stands next, with the reason in a sentence.

    starting → comparing → shifting 1, 10, 50, 100 % → locking → draining → done
        └──────────┴──────────────┴──────────────────────┴→ rolling back → rolled back

Until the lock is written the old replicas stay, whatever happens: rolling back takes the new ones away. From then on the new
ones stay, and the old ones go once new ones are ready. What runs therefore follows from the state alone.
"""

from dataclasses import dataclass, replace
from typing import Literal

from headrace.control.guards import Evidence
from headrace.errors import UsageError
from headrace.units import show_duration

Phase = Literal["planning", "starting", "comparing", "shifting", "locking", "draining", "done", "rolling back", "rolled back"]
STEPS = (1, 10, 50, 100)
START_SECONDS = 900.0
"""The longest start, weights to convert included."""
OLD_SECONDS = 60.0
"""How long the new one waits for the old one to be ready, which may have been asleep: to compare with it."""
LEAST_SECONDS = 3.0
"""The shortest step."""
MOST_PATIENCE = 7 * 86_400.0
DECIDED_PERCENT = 50
"""From this share on a step goes on until the guards have decided, or patience is over."""
DOUBT = 3.0
"""How many times the patience a step goes on while something speaks against the new one; in the last it then goes back."""
OVER: tuple[Phase, ...] = ("done", "rolled back")


@dataclass(frozen=True, slots=True)
class Rules:
    """How traffic is shifted. A step ends after so many `answers` of the new replicas, or when `patience_seconds` did not bring
    as many.
    """

    steps: tuple[int, ...] = STEPS
    """Percent of the conversations, rising to 100."""
    answers: int = 20
    patience_seconds: float = 120.0
    slower: float = 1.3
    """How many times as long the new may take."""
    start_seconds: float = START_SECONDS
    """The longest start, weights to fetch included; in a cluster the node as well."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What somebody asks for: a model on another engine, in another format or revision, or with another context."""

    model: str
    to: str
    quantization: str | None = None
    revision: str | None = None
    context: int | None = None
    prompts: tuple[str, ...] = ()
    """To compare answers on; with none, made-up ones as long as those of late."""
    rules: Rules = Rules()


def checked(aim: Aim) -> Aim:
    """The aim, if it can be followed. Raises UsageError."""
    rules = aim.rules
    if not rules.steps or any(not 0 < one <= 100 for one in rules.steps) or list(rules.steps) != sorted(set(rules.steps)):
        raise UsageError(f"The steps {', '.join(map(str, rules.steps))} do not rise between 1 and 100.")
    if rules.steps[-1] != 100:
        raise UsageError(f"The steps end at {rules.steps[-1]} %, and a graduation at 100.", "Add it: --steps 1,10,50,100")
    if not 1 <= rules.start_seconds <= MOST_PATIENCE:
        raise UsageError("A start takes at least 1 second, and at most 7 days.")
    if rules.answers < 1 or not 0 < rules.patience_seconds <= MOST_PATIENCE or not 1 <= rules.slower <= 100:
        raise UsageError("answers is at least 1, patience above 0 and at most 7 days, slower between 1 and 100.")
    if aim.context is not None and aim.context < 16:
        raise UsageError(f"A context of {aim.context} tokens holds nothing.")
    return aim


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a graduation stands, since when (monotonic seconds), and why."""

    phase: Phase
    since: float
    reason: str = ""
    step: int = 0
    """Which step of the rules, when shifting."""

    @property
    def over(self) -> bool:
        return self.phase in OVER

    @property
    def keeps_old(self) -> bool:
        """Whether the old replicas are wanted."""
        return self.phase not in ("draining", "done")

    @property
    def wants_new(self) -> bool:
        """Whether the new replicas are wanted."""
        return self.phase not in ("planning", "rolling back", "rolled back")

    def share(self, rules: Rules) -> float:
        """The part of the conversations that goes to the new replicas, 0 to 1."""
        if self.phase == "shifting":
            return rules.steps[self.step] / 100
        return 1.0 if self.phase in ("locking", "draining", "done") else 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is so now. Texts are empty where there is nothing to say; None is not known yet."""

    new_wanted: int = 1
    new_ready: int = 0
    short_seconds: float = 0.0
    """For how long fewer new replicas have been ready than there must be."""
    new_there: int = 0
    """New replicas in memory, in whatever state."""
    old_there: int = 0
    old_ready: int = 1
    broken: str = ""
    """Why a new replica failed."""
    failures: int = 0
    """How often one did in a row."""
    compared: str | None = None
    """Why the comparison is no good."""
    remark: str = ""
    """What the comparison showed."""
    answers: int = 0
    """Of the new ones, in this step."""
    breach: str = ""
    """Which guard is broken."""
    undecided: str = ""
    """What the guards cannot tell yet."""
    doubt: str = ""
    """What speaks against it without being a breach."""
    locked: str | None = None
    """Why the lock was not written; None while it is being written."""
    abort: str = ""
    """Who asked to go back."""


def judged(seen: Seen, evidence: Evidence) -> Seen:
    """With what the guards say of the new ones in this step."""
    return replace(seen, answers=evidence.answers, breach=evidence.breach, undecided=evidence.undecided, doubt=evidence.doubt)


def step(standing: Standing, seen: Seen, rules: Rules, now: float) -> Standing:
    """Where it stands next; the same value when nothing changes."""
    if standing.over:
        return standing
    if standing.phase == "rolling back":
        return standing if seen.new_there else _to("rolled back", now, standing.reason)
    if standing.phase == "draining":
        return standing if seen.old_there else _drained(standing, seen, rules, now)
    if why := _stop(standing, seen, rules, now):
        return _to("rolling back", now, why)
    return _onward(standing, seen, rules, now)


def _drained(standing: Standing, seen: Seen, rules: Rules, now: float) -> Standing:
    """Done once the new ones are ready; also when they are not for so long that somebody may want another graduation."""
    said = "the old replicas have answered all they had and are gone"
    if seen.new_ready >= seen.new_wanted:
        return _to("done", now, said)
    late = now - standing.since >= rules.start_seconds
    return _to("done", now, f"{said}; the new one is not ready{seen.broken and f': {seen.broken}'}") if late else standing


def _stop(standing: Standing, seen: Seen, rules: Rules, now: float) -> str:
    """Why it must not go on; empty when it may."""
    if standing.phase == "locking":
        # Written: there is no way back by now. Being written: nobody can tell yet which of both the next start runs.
        return (seen.abort or seen.broken or f"the lock cannot be written: {seen.locked}") if seen.locked else ""
    if seen.abort:
        return seen.abort
    if standing.phase in ("comparing", "shifting") and seen.broken:
        return seen.broken
    if standing.phase == "starting":
        late = now - standing.since >= rules.start_seconds
        if seen.broken and seen.failures > 1:
            return f"it does not start: {seen.broken}"
        return f"it was not ready after {show_duration(rules.start_seconds)}" if late else ""
    if standing.phase == "comparing":
        return seen.compared or ""
    if seen.short_seconds >= rules.start_seconds:  # none failed: an administrator stopped it, or it sleeps
        return f"not enough of it is ready after {show_duration(rules.start_seconds)}"
    last = standing.step + 1 == len(rules.steps)
    return seen.breach or (seen.doubt if last and now - standing.since >= DOUBT * rules.patience_seconds else "")


def _onward(standing: Standing, seen: Seen, rules: Rules, now: float) -> Standing:
    old_is_there = seen.old_ready or now - standing.since >= OLD_SECONDS
    if standing.phase == "starting" and seen.new_ready >= seen.new_wanted and old_is_there:
        return _to("comparing", now, f"{_ready(seen.new_ready)} and warm after {show_duration(now - standing.since)}")
    if standing.phase == "comparing" and seen.compared == "":
        return Standing("shifting", now, _shifted(rules, 0, seen.remark))
    if standing.phase == "shifting" and (why := _passed(standing, seen, rules, now)):
        if standing.step + 1 < len(rules.steps):
            return replace(standing, step=standing.step + 1, since=now, reason=_shifted(rules, standing.step + 1, why))
        return _to("locking", now, f"all of the traffic, and no guard broken: {why}")
    if standing.phase == "locking" and seen.locked == "":
        return _to("draining", now, "the decision is written: the next start runs the new one")
    return standing


def _passed(standing: Standing, seen: Seen, rules: Rules, now: float) -> str:
    """Why the step is over; empty while it is not."""
    took = now - standing.since
    if seen.new_ready < seen.new_wanted or (seen.doubt and took < DOUBT * rules.patience_seconds):
        return ""
    enough = seen.answers >= rules.answers and took >= min(LEAST_SECONDS, rules.patience_seconds)
    if enough and (not seen.undecided or rules.steps[standing.step] < DECIDED_PERCENT):
        return f"{seen.answers} answers in {show_duration(took)} without a breach"
    if took >= rules.patience_seconds:
        answers = "1 answer" if seen.answers == 1 else f"{seen.answers} answers"
        why = seen.undecided if enough else "nothing speaks against it, and little for it"
        return f"{'' if enough else 'only '}{answers} in {show_duration(took)}: {why}"
    return ""


def _shifted(rules: Rules, step: int, why: str) -> str:
    return f"{rules.steps[step]} % of the conversations go to it: {why}"


def _ready(count: int) -> str:
    return "the new replica is ready" if count == 1 else f"{count} new replicas are ready"


def _to(phase: Phase, now: float, reason: str) -> Standing:
    return Standing(phase, now, reason)
