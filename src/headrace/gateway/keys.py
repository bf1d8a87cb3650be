"""Who may use the gateway: keys known by their SHA-256, looked up by what a request presents, and what each may ask for.

A plain hash is right here, where it would be wrong for passwords: keys are 256 random bits (or at least 16 characters that an
operator chose to be long and random), so that nobody can guess one from its hash however fast it is, and a slow hash would cost
every request. A lookup by hash takes the same time whatever part of a key is right: what it compares is not what was sent.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from headrace.gateway.accounts import Account, Key
from headrace.gateway.openai import Refusal

if TYPE_CHECKING:
    from headrace.gateway.http import RequestHead

__all__ = ["Account", "Keys", "allowed", "presented", "unauthorized"]

_OPEN = frozenset(("/health", "/ready", "/v2/health/live", "/v2/health/ready", "/", "/playground"))
_PAGES = "/dashboard/"
"""What probes ask for, which have no keys, and pages for browsers, which say nothing of what is served: they ask for that, with
the key that their user gives them.
"""
_METRICS = "/metrics"
_ADMIN_PATHS = (_METRICS, "/admin/")


class Shared(Protocol):
    """Where gateways share the limits of keys."""

    @property
    def answers(self) -> bool:
        """Whether it does; without, each gateway goes by what it counts itself."""

    @property
    def failures(self) -> int:
        """How often it did not."""

    @property
    def waits(self) -> int:
        """Requests that waited for an answer."""

    def ask(self, account: Account, then: Callable[[], None]) -> None:
        """Ask for what the account needs, and call `then` soon, whether or not there was an answer."""


class Keys:
    """The keys in force. Another set takes the accounts of those that stay, with what they have taken."""

    __slots__ = ("_by_digest", "accounts", "shared")

    def __init__(self, keys: Iterable[Key], before: "Keys | None" = None, shared: Shared | None = None) -> None:
        known = before.accounts if before is not None else {}
        self.shared: Shared | None = shared or (before.shared if before is not None else None)
        self.accounts: dict[str, Account] = {}
        for key in keys:
            account = self.accounts[key.name] = known.get(key.name) or Account(key, shares=self.shared is not None)
            account.live = self.shared is not None and self.shared.answers
            account.renew(key)
        self._by_digest = {account.key.digest: account for account in self.accounts.values()}

    def account(self, head: "RequestHead") -> Account | None:
        """Whose request this is; None when it presents no key that is in force.

        Heads are shared by requests with the same bytes, so the answer is kept with them, for as long as these keys are in force.
        """
        known, account = head.holder
        if known is self:
            return account
        account = self._by_digest.get(sha256(presented(head.known)).digest())
        head.holder = (self, account)
        return account

    def judge(self, head: "RequestHead") -> Refusal | None:
        """What a head without a key, or without the right one, is answered, before its body is read."""
        if head.route is None and (head.preflight or head.path in _OPEN or head.path.startswith(_PAGES)):
            return None  # a preflight comes without a key
        account = self.account(head)
        if account is None:
            return unauthorized(head)
        if (refusal := _forbidden(account.key, head)) is None:
            head.passed = self
        return refusal


def _forbidden(key: Key, head: "RequestHead") -> Refusal | None:
    if head.route is not None and not key.metrics:
        return None
    path = unquote(head.path)  # as asgi.py reads it
    if head.route is None and path == _METRICS and key.metrics:
        return None
    if key.metrics and not key.admin:
        message = f'The key "{key.name}" may read {_METRICS} and nothing else: it was made with --metrics.'
        return Refusal(403, message, "metrics_only", "permission_error")
    if head.route is None and not key.admin and path.startswith(_ADMIN_PATHS):
        way = "--admin or --metrics" if path == _METRICS else "--admin"
        message = f'The key "{key.name}" may not read {head.path[:200]}: that takes one made with {way}.'
        return Refusal(403, message, "admin_only", "permission_error")
    return None


def presented(known: Mapping[bytes, bytes]) -> bytes:
    """The key that a request shows, as OpenAI's clients do (`Authorization: Bearer`), Anthropic's (`x-api-key`) or Azure's
    (`api-key`); empty when there is none.
    """
    scheme, _, token = known.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return token.strip()
    return known.get(b"x-api-key") or known.get(b"api-key") or b""


def unauthorized(head: "RequestHead") -> Refusal:
    """The answer to a request without a key that is in force. It never repeats what was sent."""
    if presented(head.known):
        return Refusal(401, "Incorrect API key provided: it is not, or no longer, one of this gateway's.", "invalid_api_key")
    message = "You didn't provide an API key. Send it as Authorization: Bearer KEY; headrace key add makes one."
    return Refusal(401, message, "missing_api_key")


def allowed(account: Account | None, name: str, model: str, also: frozenset[str]) -> bool:
    """Whether `name`, which leads to `model`, may be asked for with the key; `also` are names that its engine knows itself.

    An alias is as good as its model. An adapter is a model of its own: it has to be named.
    """
    if account is None or not account.key.models:
        return True
    return name in account.key.models or (name not in also and model in account.key.models)
