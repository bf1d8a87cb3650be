"""What a graduation's record asks of a real API server: the newest version only, one holder, and what becomes of it without."""

import pytest
from msgspec.structs import replace
from user import User

from headrace.cluster_graduation.lease import Lease, LostError
from headrace.cluster_graduation.prospect import CONFIG, configured
from headrace.control.cluster_record import Record
from headrace.control.graduation import Aim
from headrace.targets.kubernetes import sides
from headrace.targets.kubernetes.refusals import ClusterError

pytestmark = pytest.mark.controlplane
RECORD = Record(Aim("chat", "vllm"), "starting", "chat", "chat-b", {"service": "chat"}, {"service": "chat-b"})


def lease(user: User, holder: str) -> Lease:
    return Lease(user.api, user.namespace, "graduation-chat", holder)


@pytest.fixture
def applied(user: User) -> User:
    user.write(storage={})
    user.applies()
    return user


def test_it_is_written_by_one_at_a_time_and_apply_is_refused_until_it_is_over(applied: User) -> None:
    one, other = lease(applied, "one"), lease(applied, "other")
    one.begin(RECORD)
    with pytest.raises(LostError) as refused:
        other.begin(RECORD)
    assert refused.value.exit_code == 75
    other.wish_back("other")
    assert one.record is not None
    one.write(one.record.at("comparing", "ready", 1.0))
    assert (one.record.phase, one.record.abort, one.record.holder) == ("comparing", "asked to go back by other", "one")
    said = applied.types("apply")
    assert (said.code, "is on its way from chat to chat-b (comparing)" in said.err) == (69, True)
    one.write(replace(one.record, phase="rolled back"))
    one.release()
    assert applied.types("apply", "--prune").code == 0
    found = lease(applied, "third").look()  # it is no left-over
    assert found is not None
    assert found.holder == ""


def test_whoever_took_over_is_not_written_over(applied: User) -> None:
    one, other = lease(applied, "one"), lease(applied, "other")
    one.begin(RECORD)
    one._over.set()  # it sleeps
    other.look()
    other._hold(replace(RECORD, phase="shifting"))
    with pytest.raises(LostError, match="somebody else has taken over here"):
        one.write(RECORD)
    found = other.look()
    assert found is not None
    assert (found.holder, found.phase) == ("other", "shifting")
    other.release()


def test_one_that_was_removed_is_lost_and_not_made_again(applied: User) -> None:
    one = lease(applied, "one")
    one.begin(RECORD)
    resource = applied.api.resource(*CONFIG)
    assert resource
    applied.api.delete(resource, applied.namespace, "graduation-chat")
    with pytest.raises(LostError, match="The record is gone"):
        one.write(RECORD)
    assert lease(applied, "other").look() is None
    one.release()
    assert lease(applied, "other").look() is None


def test_gateways_are_told_over_the_version_that_was_read_and_apply_says_the_same_again(applied: User) -> None:
    resource = applied.api.resource(*CONFIG)
    assert resource
    before = configured(applied.api, applied.namespace)
    own = sides.told(before)["models"]["own"]
    trial = sides.split(own, {**own, "service": "own-b"}, 0.5)
    applied.api.apply(resource, sides.telling(before, "own", trial), force=True)
    with pytest.raises(ClusterError) as refused:
        applied.api.apply(resource, sides.telling(before, "own", own), force=True)
    assert refused.value.status == 409
    now = configured(applied.api, applied.namespace)
    assert sides.told(now)["models"]["own"] == trial
    applied.api.apply(resource, sides.telling(now, "own", own), force=True)
    assert applied.types("diff").code == 0
    assert applied.types("apply").code == 0
