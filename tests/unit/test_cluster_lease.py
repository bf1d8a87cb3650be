"""Who carries a graduation out: one at a time, over the version that was read last, and somebody else once it has gone."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from headrace.cluster_graduation import lease as lease_module
from headrace.cluster_graduation.lease import BusyError, Lease, LostError
from headrace.control.cluster_record import Record, read
from headrace.control.graduation import Aim
from headrace.targets.kubernetes.refusals import ClusterError
from tests.unit.cluster_graduation.small_world import Clock

RECORD = Record(Aim("chat", "vllm"), "starting", "chat", "chat-b", {"service": "chat"}, {"service": "chat-b"})


class Store:
    """One ConfigMap with a version. `before` is called before the next write reaches it, `after` before it is answered; `deaf`:
    the answer to it is lost, and with this status comes none, or another one.
    """

    def __init__(self) -> None:
        self.object: dict[str, Any] | None = None
        self.version = 0
        self.before: Callable[[], None] | None = None
        self.after: Callable[[], None] | None = None
        self.deaf: int | None = None

    def get(self, resource: Any, namespace: str, name: str) -> dict[str, Any] | None:
        return self.object

    def create(self, path: str, body: dict[str, Any], what: str) -> dict[str, Any]:
        return self._put(body, None)

    def apply(self, resource: Any, body: dict[str, Any], *, force: bool) -> tuple[dict[str, Any], bool]:
        return self._put(body, body["metadata"]["resourceVersion"]), False

    def _put(self, body: dict[str, Any], version: str | None) -> dict[str, Any]:
        before, self.before = self.before, None
        if before:
            before()
        if version != (str(self.version) if self.object else None):
            error = ClusterError("the object has been modified")
            error.status = 409
            raise error
        self.version += 1
        self.object = made = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        after, self.after = self.after, None
        if after:
            after()
        if self.deaf is not None:
            error = ClusterError("lost")
            error.status, self.deaf = self.deaf, None
            raise error
        return made

    @property
    def record(self) -> Record:
        found = read(self.object) if self.object else None
        assert found is not None
        return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "GONE_SECONDS", 0.6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that passes where a test says so."""
    made = Clock()
    monkeypatch.setattr(lease_module, "time", made)
    return made


def lease(store: Store, holder: str) -> Lease:
    return Lease(store, "ai", "graduation-chat", holder)  # type: ignore[arg-type]


def test_of_two_that_begin_one_is_refused() -> None:
    store, one, other = Store(), None, None
    one, other = lease(store, "one"), lease(store, "other")
    store.before = lambda: other.begin(RECORD)
    with pytest.raises(LostError):
        one.begin(RECORD)
    assert store.record.holder == "other"
    with pytest.raises(LostError, match="began that just now"):
        lease(store, "third").begin(RECORD)
    other.release()
    assert store.record.holder == ""


def test_one_that_is_over_is_followed_by_the_next() -> None:
    store = Store()
    first = lease(store, "one")
    first.begin(replace(RECORD, phase="done"))
    first.release()
    second = lease(store, "two")
    second.begin(RECORD)
    second.release()
    assert store.record.phase == "starting"


def test_whoever_lives_keeps_it_and_whoever_is_gone_is_followed(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.05)
    store, said = Store(), list[str]()
    one, other = lease(store, "one"), lease(store, "other")
    one.begin(RECORD)
    with pytest.raises(BusyError, match="somebody carries that out"):
        other.take(said.append)
    one._over.set()  # as by kill -9: it beats no more, and lets nothing go
    other.take(said.append)
    assert store.record.holder == "other"
    assert "one carried it out" in said[0]
    with pytest.raises(LostError, match="somebody else has taken over here"):
        one.write(RECORD)
    other.release()


def test_one_that_was_let_go_is_taken_at_once() -> None:
    store = Store()
    one = lease(store, "one")
    one.begin(RECORD)
    one.release()
    other = lease(store, "other")
    other.take(lambda said: pytest.fail(said))
    other.release()


def test_a_wish_to_go_back_is_taken_up_by_whoever_writes_next() -> None:
    store = Store()
    one = lease(store, "one")
    one.begin(RECORD)
    lease(store, "other").wish_back("other")
    one.write(one.record.at("comparing", "ready", 1.0) if one.record else RECORD)
    assert one.record is not None
    assert (one.record.phase, one.record.abort, one.record.holder) == ("comparing", "asked to go back by other", "one")
    assert replace(store.record) == one.record
    one.release()


def test_a_write_whose_answer_was_lost_is_known_as_our_own() -> None:
    store = Store()
    one = lease(store, "one")
    one.begin(RECORD)
    store.deaf = 409  # as when a proxy repeats a request whose answer was lost
    one.write(one.record.at("comparing", "ready", 1.0) if one.record else RECORD)
    assert store.record.phase == "comparing"
    one.release()


@pytest.mark.parametrize("status", [0, 500])
def test_and_so_is_one_that_is_written_again_later(status: int) -> None:
    """The server has another version by then, and no answer said which."""
    store = Store()
    one = lease(store, "one")
    one.begin(RECORD)
    held = store.record
    store.deaf = status
    with pytest.raises(ClusterError, match="lost"):
        one.write(held.at("comparing", "ready", 1.0))
    assert store.record.phase == "comparing"
    one.write(held.at("comparing", "ready", 2.0))
    assert (store.record.phase, store.record.holder) == ("comparing", "one")
    one.release()


def test_before_a_change_it_is_asked_again_where_the_last_word_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept: its thread did not beat, and what is monotonic stood still."""
    store = Store()
    one, other = lease(store, "one"), lease(store, "other")
    one.begin(RECORD)
    one._over.set()
    one.sure()
    version = store.version
    other.look()
    other.write(replace(RECORD, holder="other"))
    one.sure()  # nothing is asked: its own word is fresh
    assert store.version == version + 1
    one._written -= lease_module.BEAT_SECONDS
    with pytest.raises(LostError, match="somebody else has taken over here"):
        one.sure()


def one_whose_next_answer_is_late(clock: Clock) -> Lease:
    """One that has begun. Its next write is stored at once, and answered only when another has taken over."""
    store = Store()
    one, other = lease(store, "one"), lease(store, "other")
    one.begin(RECORD)
    one._over.set()

    def late() -> None:
        clock.sleep(2 * lease_module.GONE_SECONDS)
        other.look()
        other.write(replace(store.record, holder="other"))

    store.after = late
    return one


def test_an_answer_that_came_late_is_an_old_word(clock: Clock) -> None:
    one = one_whose_next_answer_is_late(clock)
    one.write(replace(RECORD, holder="one"))
    with pytest.raises(LostError, match="somebody else has taken over here"):
        one.sure()


def test_nor_does_the_answer_to_the_question_itself_count_when_it_is_late(clock: Clock) -> None:
    one = one_whose_next_answer_is_late(clock)
    clock.sleep(lease_module.BEAT_SECONDS)
    with pytest.raises(ClusterError, match="took 30 s to answer: somebody else may have taken over by now") as late:
        one.sure()
    assert not isinstance(late.value, LostError), "it is asked again"
    with pytest.raises(LostError, match="somebody else has taken over here"):
        one.sure()


def test_a_slow_answer_is_one_while_nobody_can_have_taken_over(clock: Clock) -> None:
    store = Store()
    one = lease(store, "one")
    one.begin(RECORD)
    one._over.set()
    clock.sleep(lease_module.BEAT_SECONDS)
    store.after = lambda: clock.sleep(lease_module.BEAT_SECONDS + 1)
    one.sure()
    assert store.version == 2


def test_a_record_of_another_version_is_not_written_over() -> None:
    store = Store()
    one = lease(store, "one")
    one.begin(RECORD)
    one.release()
    assert store.object is not None
    store.object["data"]["graduation.json"] = '{"phase": "teleporting"}'
    with pytest.raises(ClusterError, match="no record that this version can read"):
        lease(store, "two").begin(RECORD)
