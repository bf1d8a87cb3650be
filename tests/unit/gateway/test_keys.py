"""Keys at a real gateway: who is let in, to what, how much, and that nobody else learns of the key."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.accounts import Account, Key
from headrace.gateway.buckets import Buckets
from headrace.gateway.keys import Keys
from headrace.gateway.openai import Ask, Refusal

from .clients import asking, chat, get, request
from .engines import Gate, answers, eventually

BEARER = "Authorization: Bearer secret-of-{}"


def key(name: str, **limits) -> Key:
    return Key(name, sha256(f"secret-of-{name}".encode()).digest(), **limits)


def bearer(name: str) -> str:
    return BEARER.format(name)


def keyed(world, *keys: Key) -> None:
    world.gateway.keys = Keys(keys, world.gateway.keys)


# ---- who is let in


@pytest.mark.parametrize(
    "field",
    ["Authorization: Bearer secret-of-a", "authorization: bearer secret-of-a", "x-api-key: secret-of-a", "api-key: secret-of-a"],
)
async def test_a_key_is_taken_from_where_clients_put_it_and_reaches_no_engine(world, field):
    engine = await world.engine()
    keyed(world, key("a"))
    assert (await world.ask(chat(field))).status == 200
    assert not any(b"secret-of-a" in asked.head for asked in engine.asked)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ((), "missing_api_key"),
        (("Authorization: Bearer secret-of-b",), "invalid_api_key"),
        (("Authorization: Basic secret-of-a",), "missing_api_key"),  # another scheme is no key
        (("Authorization: Bearer secret-of-a", "Authorization: Bearer secret-of-a"), "invalid_api_key"),  # which of them?
        (("Authorization: Bearer ",), "missing_api_key"),
        (("x-api-key: " + sha256(b"secret-of-a").hexdigest(),), "invalid_api_key"),  # the hash is no key
    ],
)
async def test_whoever_has_no_key_is_told_so_before_the_body_is_read(world, fields, code):
    keyed(world, key("a"))
    client = await world.client()
    head = request(b"x" * 100_000, *fields, target="/v1/chat/completions").partition(b"\r\n\r\n")[0]
    await client.send(head + b"\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.json["error"]["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert b"secret" not in answer.body


async def test_a_revoked_key_is_refused_on_the_connection_that_it_has(world):
    await world.engine()
    keyed(world, key("a"), key("b"))
    client = await world.client()
    for expected in (200, 200):
        await client.send(chat(bearer("a")))
        assert (await client.answer()).status == expected
    keyed(world, key("b"))
    await client.send(chat(bearer("a")))
    assert (await client.answer()).status == 401
    await client.send(chat(bearer("b")))
    assert (await client.answer()).status == 200


async def test_a_key_sees_and_uses_its_models_only(world):
    await world.engine()
    keyed(world, key("a", models=frozenset({"chat"})), key("v", models=frozenset({"vectors"})))
    assert (await world.ask(chat(bearer("a"), model="gpt-4o"))).status == 200, "an alias is as good as its model"
    answer = await world.ask(chat(bearer("v")))
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert "gpt-4o" not in answer.json["error"]["message"]
    listed = (await world.ask(get("/v1/models", bearer("v")))).json["data"]
    assert [card["id"] for card in listed] == ["vectors"]
    assert (await world.ask(get("/v1/models/chat", bearer("v")))).status == 404
    assert (await world.ask(get("/v2/models/chat/ready", bearer("v")))).status in (400, 404)


@pytest.mark.parametrize(
    "path", ["/metrics", "/admin/status", "/admin/keys", "/admin/logs/chat", "/%61dmin/status", "/metric%73"]
)
async def test_what_operators_read_takes_an_admin_key(world, path):
    await world.engine()
    keyed(world, key("a"), key("ops", admin=True))
    assert (await world.ask(get(path))).status == 401
    assert (await world.ask(get(path, bearer("a")))).status == 403
    assert (await world.ask(get(path, bearer("ops")))).status in (200, 404)


async def test_probes_need_no_key_and_learn_no_names(world):
    keyed(world, key("a"))
    assert (await world.ask(get("/health"))).status == 200
    assert "models" not in (await world.ask(get("/ready"))).json


async def test_with_keys_a_gateway_may_be_reached_under_any_name(world):
    await world.engine()
    keyed(world, key("a"))
    assert (await world.ask(get("/v1/models", bearer("a"), host="models.example.com"))).status == 200


# ---- how much


async def test_requests_per_minute_are_limited_and_told(world):
    await world.engine()
    keyed(world, key("a", rpm=2), key("b"))
    first = await world.ask(chat(bearer("a")))
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert (await world.ask(chat(bearer("a")))).status == 200
    refused = await world.ask(chat(bearer("a")))
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    other = await world.ask(chat(bearer("b")))
    assert other.status == 200
    assert not any(name.startswith("x-ratelimit") for name in other.headers)
    assert world.gateway.loads()["chat"].refused == 0, "the model is not short of anything"


async def test_requests_at_once_are_limited_and_counted_back(world):
    gate = Gate()
    await world.engine(gate)
    keyed(world, key("a", concurrent=1))
    client = await world.client()
    await client.send(chat(bearer("a")))
    await eventually(lambda: world.running == 1, "one runs")
    assert (await world.ask(chat(bearer("a")))).status == 429
    client.close()
    account = world.gateway.keys.accounts["a"]
    await eventually(lambda: account.running == 0, "it left")
    gate.let(2)
    assert (await world.ask(chat(bearer("a")))).status == 200
    assert (account.running, account.reserved) == (0, 0.0)


async def test_use_is_settled_by_what_the_engine_counted_and_held_to_the_budget(world):
    await world.engine(answers)
    keyed(world, key("a", budget=10))
    assert (await world.ask(chat(bearer("a"), max_tokens=5))).status == 200
    account = world.gateway.keys.accounts["a"]
    assert account.use == (1, 7, 2, 0)
    account.use = account.use._replace(tokens_out=3)
    refused = await world.ask(chat(bearer("a")))
    assert (refused.status, refused.json["error"]["code"]) == (429, "insufficient_quota")


# ---- the sums


def ask(**fields) -> Ask:
    import msgspec

    return Ask("chat", False, 1, {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}, True)


def test_tokens_per_minute_refill_and_errors_give_them_back():
    account = Account(key("a", tpm=600))
    body = asking()
    charge = account.charge(ask(max_tokens=400), body, None, generates=True, now=0.0)
    with pytest.raises(Refusal) as refused:
        account.charge(ask(max_tokens=400), body, None, generates=True, now=0.0)
    assert refused.value.retry_after is not None
    account.charge(ask(max_tokens=400), body, None, generates=True, now=float(refused.value.retry_after))
    from headrace.traffic import Finished

    account.settle(charge, Finished(0.0, "chat", "chat-1", 502, None, None, 0.0, None, 1.0), 0)
    account.charge(ask(max_tokens=400), body, None, generates=True, now=float(refused.value.retry_after))


@pytest.mark.parametrize(
    ("choices", "context", "tokens"),
    [
        (1, None, 26 + 400),
        (3, None, 26 + 1200),
        (-5, None, 26 + 400),  # the engine refuses it: until then it gives the key nothing
        (1, 100, 26 + 74),  # no request takes more than its model's context
        (3, 100, 26 + 3 * 74),
        (1, 20, 20 + 1),
    ],
)
def test_what_a_request_reserves(choices, context, tokens):
    asked = ask(max_tokens=400)
    asked.choices = choices
    account = Account(key("a", tpm=10_000))
    assert account.charge(asked, b" " * 100, context, generates=True, now=0.0).tokens == account.reserved == tokens


def test_what_was_taken_in_another_month_is_not_of_this_one():
    from headrace.traffic import Finished

    account = Account(key("a"))
    for month in ("2026-11", "2026-12"):
        account.in_month(month)
        charge = account.charge(ask(), b"{}", None, generates=True, now=0.0)
        account.settle(charge, Finished(0.0, "chat", "chat-1", 200, 7, 2, 0.0, None, 1.0), 0)
        assert account.use == (1, 7, 2, 0)
    assert (account.tokens_in, account.tokens_out, account.statuses) == (14, 4, {200: 2})


def test_what_can_never_pass_is_told_no_time_to_come_back():
    with pytest.raises(Refusal) as refused:
        Account(key("a", tpm=100)).charge(ask(max_tokens=400), b"{}", None, generates=True, now=0.0)
    assert refused.value.retry_after is None


def test_other_limits_keep_what_was_taken():
    account = Account(key("a", rpm=10))
    for _ in range(10):
        account.charge(ask(), b"{}", None, generates=False, now=0.0)
    account.renew(key("a", rpm=12))
    for _ in range(2):
        account.charge(ask(), b"{}", None, generates=False, now=0.0)
    with pytest.raises(Refusal):
        account.charge(ask(), b"{}", None, generates=False, now=0.0)


def test_what_is_left_of_each_limit_is_told_as_it_is_now_whichever_refuses():
    account = Account(key("a", rpm=1, tpm=600))
    account.charge(ask(max_tokens=400), b"{}", None, generates=True, now=0.0)
    with pytest.raises(Refusal):
        account.charge(ask(max_tokens=400), b"{}", None, generates=True, now=30.0)
    told = account.told(30.0)
    assert b"x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 30s\r\n" in told
    assert b"x-ratelimit-remaining-tokens: 499\r\nx-ratelimit-reset-tokens: 11s\r\n" in told


@given(st.floats(0, 1.5), st.floats(0, 1.5))
def test_the_lines_of_both_limits_are_those_of_each(first, second):
    """They are made together where both are full again soon."""
    both = Buckets()
    both.resize({"requests": 60, "tokens": 6000})
    for bucket, missing in zip(both.all, (first, second), strict=True):
        bucket.at, bucket.level = 1.0, bucket.capacity - missing * bucket.per_second
    assert both.told(1.0) == b"".join(bucket.told(bucket.level) for bucket in both.all)
