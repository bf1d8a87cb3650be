"""KEDA's client against our external scaler: the four calls, several gateways, and what is not known."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from headrace.errors import HeadraceError
from headrace.keda import activity
from headrace.keda.scaler import Scaler
from tests.unit.gateway.engines import eventually

Open = Callable[[], Awaitable[Any]]


def meet(*gateways: Any) -> None:
    """Each knows all others."""
    for one in gateways:
        one.scaler.peers.update({other.address: (other.address, False) for other in gateways if other is not one})


async def connected(*gateways: Any) -> None:
    """Each hears of the others' activity."""
    for one in gateways:
        await eventually(lambda one=one: one.scaler.active("chat") is not None, "the others tell their load")


async def code(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_the_target_is_what_the_trigger_says(gateway: Open) -> None:
    one = await gateway()
    (spec,) = (await one.keda.GetMetricSpec(one.ref(target="12.5"))).metricSpecs
    assert (spec.metricName, spec.targetSizeFloat, spec.targetSize) == ("headrace-requests", 12.5, 13)


async def test_the_load_is_what_waits_and_runs(gateway: Open) -> None:
    one = await gateway()
    assert (await one.load(), await one.active()) == (0.0, False)
    one.counted(7)
    assert (await one.load(), await one.active()) == (7.0, True)
    assert (await one.load("embed"), await one.active("embed")) == (0.0, False)


async def test_an_open_stream_hears_of_the_first_held_request_at_once(gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when counts are next looked at, which is never here. How long it takes: docs/kubernetes-gateway.md."""
    monkeypatch.setattr("headrace.keda.scaler.LOOK_SECONDS", 3600.0)
    one = await gateway()
    stream = one.keda.StreamIsActive(one.ref())
    assert (await stream.read()).result is False
    one.counted(1)
    one.scaler.look()  # as the gateway calls it when somebody asks for a model that sleeps
    async with asyncio.timeout(10):
        assert (await stream.read()).result is True
    stream.cancel()


async def test_an_open_stream_hears_of_it_without_being_told(gateway: Open) -> None:
    one = await gateway()
    stream = one.keda.StreamIsActive(one.ref())
    assert (await stream.read()).result is False
    one.counted(1)
    async with asyncio.timeout(10):
        assert (await stream.read()).result is True
    stream.cancel()


async def test_a_model_that_was_asked_for_a_moment_ago_is_active(gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short requests end between two polls, and a model that answers them is not idle."""
    monkeypatch.setattr(activity, "LINGER_SECONDS", 0.3)
    one = await gateway()
    one.counted(1)
    one.counts["chat"] = activity.Count(0, 1)
    await eventually(lambda: one.scaler.active("chat") is True, "it was seen")
    assert await one.load() == 0.0
    stream = one.keda.StreamIsActive(one.ref())
    heard = [(await stream.read()).result, (await stream.read()).result]
    assert heard == [True, False]
    stream.cancel()


# --- several gateways


async def test_the_load_is_that_of_all_gateways_whichever_is_asked(gateway: Open) -> None:
    all_three = [await gateway() for _ in range(3)]
    meet(*all_three)
    await connected(*all_three)
    for number, one in enumerate(all_three):
        one.counted(10**number)
    for one in all_three:
        assert await one.load() == 111.0


async def test_a_request_at_one_gateway_wakes_through_another(gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.keda.scaler.LOOK_SECONDS", 3600.0)
    here, there = await gateway(), await gateway()
    meet(here, there)
    await connected(here, there)
    stream = here.keda.StreamIsActive(here.ref())
    assert (await stream.read()).result is False
    there.counted(1)
    there.scaler.look()
    async with asyncio.timeout(10):
        assert (await stream.read()).result is True
    assert await here.active()
    stream.cancel()


async def test_a_gateway_that_does_not_answer_is_an_error_and_never_zero(gateway: Open) -> None:
    here, there = await gateway(), await gateway()
    meet(here, there)
    await connected(here, there)
    there.counted(5)
    await there.scaler.close()
    status, says = await code(here.load())
    assert status is grpc.StatusCode.UNAVAILABLE
    assert there.address in says
    await eventually(lambda: here.scaler.active("chat") is None, "it is not known")
    assert (await code(here.active()))[0] is grpc.StatusCode.UNAVAILABLE
    here.counted(1)
    assert await here.active()  # what is known here is enough for that
    assert (await code(here.load()))[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_gateway_that_is_lost_takes_no_activity_away_from_a_stream(gateway: Open) -> None:
    here, there = await gateway(), await gateway()
    meet(here, there)
    await connected(here, there)
    there.counted(1)
    stream = here.keda.StreamIsActive(here.ref())
    while not (await stream.read()).result:
        pass
    await there.scaler.close()
    await eventually(lambda: here.scaler.active("chat") is None, "it is not known")
    pending = asyncio.ensure_future(stream.read())
    done, _ = await asyncio.wait({pending}, timeout=0.2)
    assert not done  # no False: nobody said so
    here.scaler.peers.update({})
    assert (await pending).result is False
    stream.cancel()


async def test_a_gateway_that_ends_counts_while_it_answers(gateway: Open) -> None:
    here, there = await gateway(), await gateway()
    here.scaler.peers.update({"there": (there.address, True)})
    there.counted(5)
    await eventually(lambda: here.scaler.active("chat") is True, "it tells")
    assert await here.load() == 5.0
    await there.scaler.close()
    await eventually(lambda: here.scaler.active("chat") is False, "it is gone")
    assert await here.load() == 0.0


async def test_a_gateway_that_came_back_is_heard_again(gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.keda.peers._BACKOFF_SECONDS", (0.01, 0.05))
    here, there = await gateway(), await gateway()
    meet(here, there)
    await connected(here, there)
    await there.scaler.close()
    await eventually(lambda: here.scaler.active("chat") is None, "it is lost")
    there.scaler = Scaler(lambda: there.counts)
    there.scaler.peers.update({})
    await there.scaler.listen("127.0.0.1", there.port)
    there.counted(3)
    await eventually(lambda: here.scaler.active("chat") is True, "it is heard")
    assert await here.load() == 3.0


async def test_before_it_is_known_who_else_there_is_nothing_is_known(gateway: Open) -> None:
    one = await gateway()
    one.scaler.peers.known = False
    assert (await code(one.load()))[0] is grpc.StatusCode.UNAVAILABLE
    assert (await code(one.active()))[0] is grpc.StatusCode.UNAVAILABLE


# --- what is wrong


@pytest.mark.parametrize(
    ("metadata", "status", "says"),
    [
        (
            {"model": ""},
            grpc.StatusCode.INVALID_ARGUMENT,
            "inference/chat: the trigger's metadata names no model; write model: NAME",
        ),
        ({"model": "chta"}, grpc.StatusCode.NOT_FOUND, 'inference/chat: there is no model "chta"; there are chat, embed'),
    ],
)
async def test_a_trigger_that_names_no_model_is_told_so(gateway: Open, metadata: Any, status: Any, says: str) -> None:
    one = await gateway()
    request = one.messages.GetMetricsRequest(scaledObjectRef=one.ref(**metadata))
    for call in (
        one.keda.GetMetrics(request),
        one.keda.IsActive(one.ref(**metadata)),
        one.keda.StreamIsActive(one.ref(**metadata)).read(),
    ):
        assert await code(call) == (status, says)


@pytest.mark.parametrize("target", ["", "0", "-1", "many", "nan", "inf", "1e999"])
async def test_a_target_that_is_none_is_told_so(gateway: Open, target: str) -> None:
    one = await gateway()
    status, says = await code(one.keda.GetMetricSpec(one.ref(target=target)))
    assert (status, "is no number of requests per replica" in says) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_what_keda_may_do_without_is_not_there(gateway: Open) -> None:
    """StreamMetricSpec is optional: KEDA goes on without when it hears UNIMPLEMENTED."""
    one = await gateway()
    assert (await code(one.keda.StreamMetricSpec(one.ref()).read()))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_garbage_is_refused(gateway: Open) -> None:
    one = await gateway()
    call = one.channel.unary_unary("/externalscaler.ExternalScaler/IsActive")
    with pytest.raises(grpc.aio.AioRpcError):
        await call(b"\xff\xff\xff\xff")
    assert await one.active() is False


async def test_a_port_that_is_taken_is_an_error(gateway: Open) -> None:
    one = await gateway()
    other = Scaler(dict)
    with pytest.raises(HeadraceError, match=r"cannot listen on 127\.0\.0\.1"):
        await other.listen("127.0.0.1", one.port)
    await other.close()


async def test_who_listens_hears_at_once_that_it_ends(gateway: Open) -> None:
    """KEDA then asks another gateway."""
    one = await gateway()
    stream = one.keda.StreamIsActive(one.ref())
    assert (await stream.read()).result is False
    await one.scaler.close()
    assert (await code(stream.read()))[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
