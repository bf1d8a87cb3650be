"""A request with a key: charged to its account, or held until those who share the account's limits have answered."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from headrace.gateway.access_log import tell_left
from headrace.gateway.accounts import Charge, Short
from headrace.gateway.http import Request
from headrace.gateway.keys import Keys
from headrace.gateway.openai import Ask, Refusal
from headrace.gateway.paths import Route
from headrace.gateway.served import ServedModel

if TYPE_CHECKING:
    from headrace.gateway.gateway import Gateway
    from headrace.gateway.wire import Client


def charged(
    gateway: "Gateway", client: "Client", request: Request, ask: Ask, route: Route, now: float, others: bool
) -> tuple[ServedModel, Charge]:
    """The model asked for and what the key is charged, when it may use the model and has something left. Raises Refusal, and
    Short where only others know what is left, unless they were asked (`others`).
    """
    account = client.account
    assert account is not None  # `judge` and `uses` have seen to it
    model = gateway.asked_for(ask, route, account)
    about, price, generates = model.status.context, gateway.prices.get(model.name), route.task == "generate"
    try:
        charge = account.charge(ask, request.body, about, generates, now, price, others)
    except Refusal:
        client.told = account.told(now)  # the model had no part in it: its counts, which scale it, are left alone
        raise
    client.told = account.told(now)
    return model, charge


def hold(gateway: "Gateway", keys: Keys, client: "Client", request: Request, short: Short) -> None:
    """Ask the others, then handle the request again."""
    assert keys.shared is not None
    held = Held(client, partial(gateway.handle, client, request, others=True), partial(tell_left, gateway, client, request))
    keys.shared.ask(short.account, held.go_on)


class Held:
    """What answers a client (see `wire.Work`) until `go_on` hands the request on, which happens once, or never if it left."""

    __slots__ = ("_left", "_tell", "_then")

    def __init__(self, client: "Client", then: Callable[[], None], tell: Callable[[], None]) -> None:
        self._left = False
        self._then, self._tell = then, tell
        client.begin(self)

    def go_on(self) -> None:
        """There is an answer, or nobody answers."""
        if not self._left:
            self._then()

    def cancel(self) -> None:
        """The client is gone."""
        self._left = True
        self._tell()

    def pause(self) -> None:
        """The client reads slowly: it is sent nothing yet."""

    def resume(self) -> None:
        """The client caught up."""
