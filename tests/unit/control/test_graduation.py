"""The state machine: whatever is seen in whatever order, it ends in old or new, and never are both taken away."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.control.graduation import OVER, Aim, Rules, Seen, Standing, checked, step
from headrace.errors import UsageError

RULES = Rules(answers=5, patience_seconds=50.0)
TEXT = st.sampled_from(["", "", "", "why"])
SEEN = st.builds(
    Seen,
    new_wanted=st.just(1),
    new_ready=st.integers(0, 1),
    short_seconds=st.sampled_from([0.0, 0.0, 0.0, 900.0]),
    new_there=st.integers(0, 1),
    old_there=st.integers(0, 1),
    old_ready=st.integers(0, 1),
    broken=TEXT,
    failures=st.integers(0, 3),
    compared=st.one_of(st.none(), TEXT),
    answers=st.integers(0, 9),
    breach=TEXT,
    undecided=TEXT,
    doubt=TEXT,
    locked=st.one_of(st.none(), TEXT),
    abort=TEXT,
)
FINE = Seen(new_ready=1, new_there=1, old_there=1, compared="", answers=9, locked="")


def driven(sights: list[Seen]) -> list[Standing]:
    """Where it stood, 5 seconds apart."""
    stands = [Standing("starting", 0.0)]
    for number, seen in enumerate(sights, 1):
        stands.append(step(stands[-1], seen, RULES, 5.0 * number))
    return stands


@given(st.lists(SEEN, max_size=60))
def test_never_are_both_taken_away(sights: list[Seen]) -> None:
    for standing in driven(sights):
        assert standing.keeps_old or standing.wants_new
        assert standing.share(RULES) == 0 or standing.wants_new, "traffic goes to what is kept"
        assert standing.share(RULES) == 1 or standing.keeps_old


@given(st.lists(SEEN, max_size=40))
def test_it_ends_in_old_or_new_once_nothing_happens_any_more(sights: list[Seen]) -> None:
    standing, now = driven(sights)[-1], 1000.0
    quiet = Seen(new_ready=1, new_there=1, old_there=0, compared="", locked="")
    for _ in range(20):
        now += 60.0
        gone = Seen() if standing.phase == "rolling back" else quiet
        standing = step(standing, gone, RULES, now)
    assert standing.phase in OVER


@given(st.lists(SEEN, max_size=60))
def test_the_old_go_only_after_the_lock_is_written(sights: list[Seen]) -> None:
    written = False
    for before, seen, after in zip(stands := driven(sights), sights, stands[1:], strict=False):
        written = written or (before.phase == "locking" and seen.locked == "")
        assert after.keeps_old or written


@given(st.lists(SEEN, max_size=60))
def test_what_is_over_stays_so_and_every_change_has_a_reason(sights: list[Seen]) -> None:
    stands = driven(sights)
    for before, after in pairwise(stands):
        assert after is before or (after.reason and not before.over)


def test_the_whole_way() -> None:
    stands = driven([FINE] * 9 + [Seen(new_ready=1, new_there=1, locked="")])
    way = [(one.phase, round(100 * one.share(RULES))) for one in stands]
    assert way == [
        ("starting", 0), ("comparing", 0), ("shifting", 1), ("shifting", 10), ("shifting", 50), ("shifting", 100),
        ("locking", 100), ("draining", 100), ("draining", 100), ("draining", 100), ("done", 100),
    ]  # fmt: skip


@pytest.mark.parametrize("phase", ["starting", "comparing", "shifting"])
def test_asked_to_go_back_it_goes_back(phase: str) -> None:
    standing = step(Standing(phase, 0.0), Seen(abort="asked", new_there=1), RULES, 1.0)  # type: ignore[arg-type]
    assert (standing.phase, standing.reason) == ("rolling back", "asked")
    assert step(standing, Seen(new_there=1), RULES, 2.0) is standing, "the new one still answers what it has"
    assert step(standing, Seen(new_there=0), RULES, 3.0).phase == "rolled back"


def test_one_failed_start_is_not_the_end_two_are() -> None:
    starting = Standing("starting", 0.0)
    assert step(starting, Seen(broken="it died", failures=1), RULES, 1.0) is starting
    assert step(starting, Seen(broken="it died", failures=2), RULES, 1.0).phase == "rolling back"


def test_it_waits_for_an_old_one_that_was_asleep_but_not_for_ever() -> None:
    starting = Standing("starting", 0.0)
    assert step(starting, Seen(new_ready=1, old_ready=0), RULES, 5.0) is starting
    assert step(starting, Seen(new_ready=1, old_ready=1), RULES, 5.0).phase == "comparing"
    assert step(starting, Seen(new_ready=1, old_ready=0), RULES, 60.0).phase == "comparing"


def test_a_lock_that_is_written_is_the_point_of_no_return() -> None:
    standing = step(Standing("locking", 0.0), Seen(locked="", abort="asked", breach="slow", broken="gone"), RULES, 1.0)
    assert standing.phase == "draining"


@pytest.mark.parametrize(
    ("seen", "stands"),
    [
        # Whoever writes cannot be stopped: what is said now may be wrong in a moment.
        (Seen(abort="asked"), "locking"),
        (Seen(broken="gone"), "locking"),
        (Seen(locked="the disk is full"), "rolling back: the lock cannot be written: the disk is full"),
        (Seen(locked="the disk is full", broken="gone"), "rolling back: gone"),
        (Seen(locked="the disk is full", broken="gone", abort="asked"), "rolling back: asked"),
        (Seen(locked="", broken="gone", abort="asked"), "draining: the decision is written: the next start runs the new one"),
    ],
)
def test_while_the_lock_is_written_there_is_no_way_but_to_wait(seen: Seen, stands: str) -> None:
    after = step(Standing("locking", 0.0), seen, RULES, 1e7)
    assert (f"{after.phase}: {after.reason}" if after.reason else after.phase) == stands


def test_one_that_is_not_there_without_having_failed_goes_back_after_a_start() -> None:
    """As when somebody stopped the model: both sides go, and no guard has anything to judge."""
    away = Seen(new_ready=0, old_ready=0, short_seconds=899.0)
    assert step(shifting(0), away, RULES, 1e7) == shifting(0), "a restart may take so long"
    after = step(shifting(0), replace(away, short_seconds=900.0), RULES, 1e7)
    assert (after.phase, after.reason) == ("rolling back", "not enough of it is ready after 15m")


def test_once_the_old_ones_are_gone_it_is_over_even_if_the_new_one_cannot_run() -> None:
    """Else no graduation could bring the model back: there is one at a time."""
    draining, dead = Standing("draining", 0.0), Seen(broken="chat-2 failed: gone", failures=5)
    assert step(draining, dead, RULES, 899.0) is draining
    over = step(draining, dead, RULES, 900.0)
    assert over.phase == "done"
    assert "the new one is not ready: chat-2 failed: gone" in over.reason
    assert step(draining, Seen(old_there=1, broken="gone"), RULES, 900.0) is draining, "the old ones still answer what they have"


def test_a_step_without_traffic_says_so() -> None:
    standing = step(Standing("shifting", 0.0), Seen(new_ready=1, answers=1), RULES, 51.0)
    assert standing.step == 1
    assert "only 1 answer in 51s: nothing speaks against it, and little for it" in standing.reason


def shifting(step_number: int) -> Standing:
    return Standing("shifting", 0.0, "", step_number)


HELD: list[tuple[str, int, Seen, float, str]] = [
    # Few answers are enough while few conversations go there.
    ("undecided at 10 %", 1, Seen(new_ready=1, answers=9, undecided="too few"), 5.0, "shifting 2"),
    # From half of the traffic on the guards have to decide, or patience is over.
    ("undecided at 50 %", 2, Seen(new_ready=1, answers=9, undecided="too few"), 5.0, "shifting 2"),
    ("undecided until patience is over", 2, Seen(new_ready=1, answers=9, undecided="too few"), 50.0, "shifting 3"),
    ("decided at 100 %", 3, Seen(new_ready=1, answers=9), 5.0, "locking 0"),
    # What speaks against it holds a step for three times as long.
    ("doubt at 10 %", 1, Seen(new_ready=1, answers=9, doubt="2 failed"), 149.0, "shifting 1"),
    ("doubt at 10 %, too long", 1, Seen(new_ready=1, answers=9, doubt="2 failed"), 150.0, "shifting 2"),
    # In the last step it is not believed.
    ("doubt at 100 %", 3, Seen(new_ready=1, answers=9, doubt="2 failed"), 149.0, "shifting 3"),
    ("doubt at 100 %, too long", 3, Seen(new_ready=1, new_there=1, answers=9, doubt="2 failed"), 150.0, "rolling back 0"),
]


@pytest.mark.parametrize(("number", "seen", "now", "stands"), [row[1:] for row in HELD], ids=[row[0] for row in HELD])
def test_a_step_is_held_until_the_guards_can_tell(number: int, seen: Seen, now: float, stands: str) -> None:
    after = step(shifting(number), seen, RULES, now)
    assert f"{after.phase} {after.step}" == stands
    if after.phase == "rolling back":
        assert after.reason == "2 failed"


@pytest.mark.parametrize(
    "aim",
    [
        Aim("chat", "vllm", rules=Rules(steps=())),
        Aim("chat", "vllm", rules=Rules(steps=(1, 10))),
        Aim("chat", "vllm", rules=Rules(steps=(10, 1, 100))),
        Aim("chat", "vllm", rules=Rules(steps=(0, 100))),
        Aim("chat", "vllm", rules=Rules(answers=0)),
        Aim("chat", "vllm", rules=Rules(slower=0.5)),
        Aim("chat", "vllm", rules=Rules(patience_seconds=float("nan"))),
        Aim("chat", "vllm", context=1),
    ],
)
def test_aims_that_cannot_be_followed(aim: Aim) -> None:
    with pytest.raises(UsageError):
        checked(aim)
