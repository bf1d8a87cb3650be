"""Money: what tokens cost, budgets in it, keys that may read metrics only."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.accounts import Account, Key
from headrace.gateway.keys import Keys
from headrace.gateway.openai import Ask, Refusal, usage_in
from headrace.keys import in_month, this_month, unpriced
from headrace.money import BILLION, Money, Price, parse_money, shown
from headrace.traffic import Finished

from .clients import chat, get
from .engines import answers

BEARER = "Authorization: Bearer secret-of-{}"
PRICE = Price(0.15, 0.60, 0.075)


def key(name: str, **limits) -> Key:
    return Key(name, sha256(f"secret-of-{name}".encode()).digest(), **limits)


@pytest.mark.parametrize(
    ("text", "billionths"),
    [("50 USD", 50 * BILLION), ("0.5EUR", BILLION // 2), (" 0.000000001 USD ", 1), ("1000000 JPY", 10**15)],
)
def test_money_is_read(text: str, billionths: int) -> None:
    assert parse_money(text).billionths == billionths


@pytest.mark.parametrize("text", ["50", "50 usd", "-1 USD", "0 USD", "50 DOLLARS", "1000001 USD", "1e3 USD", "50M USD", "$50"])
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"USD|most"):
        parse_money(text)


@given(st.integers(1, 10**15))
def test_amounts_survive_being_written(billionths: int) -> None:
    money = Money(billionths, "USD")
    assert "USD" in str(money)
    assert shown(billionths) != "0.00"


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10**7))
def test_a_price_is_per_million_and_cached_tokens_are_among_those_in(tokens_in: int, tokens_out: int, cached: int) -> None:
    cost = PRICE.of(tokens_in, tokens_out, cached)
    plain = tokens_in * 150 + tokens_out * 600
    assert cost == plain - min(cached, tokens_in) * 75


def test_what_the_engine_had_cached_is_read_of_its_usage() -> None:
    usage = usage_in(b'{"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}')
    assert usage is not None
    assert (usage.tokens_in, usage.tokens_out, usage.cached) == (9, 2, 4)
    for other in (b'"prompt_tokens_details":null', b'"prompt_tokens_details":{}'):
        usage = usage_in(b'{"usage":{"prompt_tokens":9,"completion_tokens":2,' + other + b"}}")
        assert usage is not None
        assert usage.cached == 0


async def test_a_budget_in_money_is_settled_by_usage_and_refused_until_the_month_ends(world):
    await world.engine(answers)
    world.gateway.prices, world.gateway.currency = {"chat": PRICE}, "EUR"
    world.gateway.keys = Keys([key("a", budget=Money(2000, "EUR")), key("ops", admin=True)])
    account = world.gateway.keys.accounts["a"]
    in_month(world.gateway.keys.accounts, this_month())
    assert (await world.ask(chat(BEARER.format("a"), max_tokens=1))).status == 200
    assert account.use.cost == PRICE.of(7, 2)  # as the engine counted, 2.25 millionths
    refused = await world.ask(chat(BEARER.format("a")))
    assert (refused.status, refused.json["error"]["code"]) == (429, "insufficient_quota")
    assert 1 <= int(refused.headers["retry-after"]) <= 31 * 86_400
    assert "EUR" in refused.json["error"]["message"]
    page = (await world.ask(get("/metrics", BEARER.format("ops")))).body.decode()
    assert 'headrace_key_cost_total{currency="EUR",key="a"} 2.25e-06' in page
    assert 'headrace_key_refused_total{key="a",limit="budget"} 1.0' in page
    told = (await world.ask(get("/admin/keys", BEARER.format("ops")))).json["keys"][0]
    assert told["cost"] == pytest.approx(2.25e-6)


def charged(account: Account, price: Price | None, **fields: object):
    return account.charge(Ask("chat", True, 1, {}, True), b"x" * 400, None, generates=True, now=0.0, price=price)


def test_requests_under_way_count_against_the_money() -> None:
    account = Account(key("a", budget=Money(PRICE.of(101, 256) + 1, "USD")))
    first = charged(account, PRICE)
    second = charged(account, PRICE)  # the first may still take less
    with pytest.raises(Refusal):
        charged(account, PRICE)
    account.settle(first, Finished(0.0, "chat", "", 502, None, None, 0.0, None, 1.0), 0)
    account.settle(second, Finished(0.0, "chat", "chat-1", 200, None, None, 0.0, None, 1.0), 20)
    assert account.use.cost == PRICE.of(101, 20), "a stream without usage is counted by its pieces, an error costs nothing"
    assert account.reserved_cost == 0


def test_a_model_without_a_price_costs_nothing_and_that_is_said() -> None:
    keys = Keys([key("a", budget=Money(5, "USD"), models=frozenset({"chat"})), key("b")])
    account = keys.accounts["a"]
    account.settle(charged(account, None), Finished(0.0, "chat", "chat-1", 200, 10, 10, 0.0, None, 1.0), 0)
    assert account.use.cost == 0
    assert "chat" in unpriced(keys, ["chat", "embed"], {})
    assert "embed" not in unpriced(keys, ["chat", "embed"], {})
    assert unpriced(keys, ["chat"], {"chat": PRICE}) == ""
    assert unpriced(Keys([key("b", budget=5)]), ["chat"], {}) == ""


async def test_a_key_for_metrics_reads_them_and_nothing_else(world):
    await world.engine()
    world.gateway.keys = Keys([key("prometheus", metrics=True)])
    bearer = BEARER.format("prometheus")
    assert (await world.ask(get("/metrics", bearer))).status == 200
    for path in ("/admin/status", "/admin/keys", "/v1/models", "/metrics/x", "/admin/logs/chat"):
        answer = await world.ask(get(path, bearer))
        assert (answer.status, answer.json["error"]["code"]) == (403, "metrics_only"), path
    assert (await world.ask(chat(bearer))).status == 403
    assert (await world.ask(get("/health", bearer))).status == 200
