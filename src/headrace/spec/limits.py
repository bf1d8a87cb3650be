"""What the limits of keys go by: prices of tokens, and the Redis in which several gateways share what was taken."""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from headrace.money import CURRENCY_PATTERN, Price
from headrace.spec.values import Strict

_KEY = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
Amount = Annotated[float, BeforeValidator(lambda value: float(value) if type(value) is int else value), Field(ge=0, le=1e6)]
"""Of money, per million tokens."""


def named(pattern: str, of: str) -> AfterValidator:
    """A validator of text that is made as `pattern` says, in words `of`."""

    def judged(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f'"{value[:40]}" must be {of}')
        return value

    return AfterValidator(judged)


Currency = Annotated[str, named(CURRENCY_PATTERN, "three letters, as in USD")]


class PriceSpec(Strict):
    """What a model's tokens cost, per million; in `gateway.currency`."""

    input: Amount = Field(description="A million tokens of prompts.")
    output: Amount = Field(0.0, description="A million tokens of answers.")
    cached: Amount | None = Field(
        None, description="A million tokens of prompts that the engine says it had cached. Default: as `input`."
    )

    @property
    def price(self) -> Price:
        return Price(self.input, self.output, self.input if self.cached is None else self.cached)


class RedisSpec(Strict):
    """Where several gateways share the limits of keys. `redis: redis://host:6379` is short for its `url`."""

    url: str = Field(description="redis://host:6379/0, or rediss:// with TLS; a user's name may stand in it, a password may not.")
    password: str | None = Field(None, description="env:NAME: the environment variable with the password. Default: none.")
    name: Annotated[str, named(r"[A-Za-z0-9._:-]{1,64}", "letters, digits and . _ : -, up to 64")] = Field(
        "headrace", description="What its keys there begin with: gateways with the same one share their limits."
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            parts.port  # noqa: B018  # it is read where it is asked for
        except ValueError:
            raise ValueError("is no address; write redis://host:6379 or rediss://host:6379") from None
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError("is no address of a Redis; write redis://host:6379, or rediss:// for TLS")
        if parts.password is not None:  # not repeated: it is the secret
            raise ValueError("holds a password, which does not belong in the file; write `password: env:NAME` beside the url")
        if parts.query or parts.fragment or not re.fullmatch(r"/?[0-9]{0,4}", parts.path):
            raise ValueError("is more than host, port and number of the database, as in redis://host:6379/0")
        return value

    @field_validator("password")
    @classmethod
    def _names_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not _KEY.fullmatch(value):
            raise ValueError("is not env:NAME, an environment variable; the password itself does not belong in the file")
        return value


def in_full(value: Any) -> Any:
    """`redis: redis://…` is short for a mapping with the url."""
    return {"url": value} if isinstance(value, str) else value
