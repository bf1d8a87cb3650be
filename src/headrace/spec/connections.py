"""The `gateway.connections` key: how many may be open at once."""

from typing import Annotated

from pydantic import Field

from headrace.spec.values import Strict

DEFAULT = 1000
Connections = Annotated[int, Field(ge=1, le=1_000_000)]


class ConnectionsSpec(Strict):
    """Clients' connections that may be open at once, so that no one client takes all of them."""

    address: Connections | None = Field(
        None,
        description="From one address (IPv6: one /64) beyond loopback, where proxies of this machine are. Default: 1000; in a "
        "cluster none, for the addresses there are those of proxies and nodes.",
    )
    key: Connections | None = Field(
        None,
        description="With one key, at each gateway: a connection counts for the key that it used last. Default: none, for one "
        "backend may hold a stream for each of its users.",
    )
