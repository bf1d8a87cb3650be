"""The command `headrace key`: make keys for clients, list them with what they took, revoke them."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.errors import UsageError
from headrace.spec.file import USUAL, usual

if TYPE_CHECKING:
    from headrace.key_store import Store, Stored
    from headrace.spec.model import Spec

_COUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kKmMgG]?)")
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "key",
        help="make, list and revoke the keys of clients",
        description="Keys that clients of the gateway need, where gateway.keys names their file. Only their hashes are kept.",
    )
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    made = actions.add_parser("add", help="make a key; it is printed once")
    made.add_argument("--name", required=True, help="whose it is, as metrics and status show it")
    made.add_argument("--models", default="", metavar="NAME,…", help="models and adapters that it may use (default: all)")
    made.add_argument("--rpm", type=_count, metavar="N", help="requests per minute")
    made.add_argument("--tpm", type=_count, metavar="N", help="tokens per minute, in and out; 200k is 200,000")
    made.add_argument("--concurrent", type=_count, metavar="N", help="requests at once")
    made.add_argument(
        "--budget",
        type=_budget,
        metavar="N",
        help='a calendar month (UTC): tokens in and out, as in 50M; or money, as in "50 USD"',
    )
    made.add_argument("--priority", choices=("interactive", "batch"), default="interactive", help="batch yields to interactive")
    made.add_argument("--weight", type=float, default=1.0, help="its share where keys compete (default 1)")
    made.add_argument("--admin", action="store_true", help="it may read status, metrics and logs as well")
    made.add_argument("--metrics", action="store_true", help="it may read /metrics and nothing else: for Prometheus")
    listed = actions.add_parser("list", help="show keys, their limits, and what they took this month")
    listed.add_argument("--json", action="store_true", help="for machines")
    gone = actions.add_parser("revoke", help="refuse a key from now on")
    gone.add_argument("name", metavar="NAME")
    for action, call in ((made, _add), (listed, _list), (gone, _revoke)):
        action.add_argument(
            "--file", help=f"the file of keys (default: what gateway.keys of ./{USUAL} names, else ~/.config/headrace/keys.json)"
        )
        action.set_defaults(command=call)


def status(options: argparse.Namespace) -> str:
    """`headrace status --keys`."""
    from headrace.report import get, keys_text

    keys = get(options.url, "/admin/keys")["keys"]
    return json.dumps(keys, indent=2) if options.json else keys_text(keys)


def _add(options: argparse.Namespace) -> None:
    from headrace.key_store import Stored

    if options.metrics and options.admin:
        raise UsageError(
            "--metrics is for a key that may do nothing else, and --admin may read metrics as well.", "Leave one out."
        )
    store = _store(options)
    models = [name.strip() for name in options.models.split(",") if name.strip()]
    limits = (options.rpm, options.tpm, options.concurrent, options.budget)
    about = (options.admin, options.priority, options.weight, *limits, options.metrics)
    secret = store.add(Stored(options.name, "", "", models, *about))
    print(secret)
    _remark(f"This is shown once and kept nowhere. In {store.path}: its hash and limits.")
    if (named := _named_file()) is None or named != store.path.absolute():
        _remark(f"headrace serve goes by it with this in the file:\n\n  gateway:\n    keys: file:{store.path}\n")
    if isinstance(options.budget, str) and (said := _prices(options.budget, models)):
        _remark(said)


def _list(options: argparse.Namespace) -> None:
    from headrace.columns import aligned
    from headrace.gateway.accounts import Use
    from headrace.key_store import KeysError
    from headrace.keys import Uses, this_month
    from headrace.money import BILLION, shown

    store = _store(options)
    month = this_month()
    try:
        used = Uses(store.path).read(month)
    except OSError as error:
        raise KeysError(f"What keys took cannot be read: {error}.") from None
    rows = [(stored, used.get(stored.name, Use())) for stored in store.read()]
    if options.json:
        told = [{"month": month, **_shown(stored), **use._asdict(), "cost": use.cost / BILLION} for stored, use in rows]
        return print(json.dumps(told, indent=2))
    if not rows:
        return print(f"{store.path} has no keys.")
    table: list[tuple[str, ...]] = [
        ("KEY", "MODELS", "PRIORITY", "REQUESTS", "TOKENS IN", "TOKENS OUT", "COST", "LIMITS", "MADE")
    ]
    for stored, use in rows:
        name = stored.name + (" (admin)" if stored.admin else " (metrics)" if stored.metrics else "")
        models = "none" if stored.metrics else ", ".join(stored.models) or "all"
        *counts, cost = use
        table.append((name, models, stored.priority, *map(str, counts), shown(cost), _limits(stored), stored.created[:10]))
    print("\n".join(aligned(table)) + f"\n\nRequests and tokens of {month} (UTC), written every few seconds.")


def _revoke(options: argparse.Namespace) -> None:
    store = _store(options)
    store.revoke(options.name)
    print(f"{options.name} is revoked: running gateways refuse it within a second; what it has under way may finish.")


def _shown(stored: "Stored") -> dict[str, Any]:
    """Without the hash: it is nobody's business."""
    limits = {"rpm": stored.rpm, "tpm": stored.tpm, "concurrent": stored.concurrent, "budget": stored.budget}
    about = {"name": stored.name, "created": stored.created, "models": stored.models, "admin": stored.admin}
    about["metrics"] = stored.metrics
    return {**about, "priority": stored.priority, "weight": stored.weight, **limits}


def _limits(stored: "Stored") -> str:
    named = (("rpm", stored.rpm), ("tpm", stored.tpm), ("concurrent", stored.concurrent), ("budget", stored.budget))
    return ", ".join(f"{name} {limit if isinstance(limit, str) else f'{limit:,}'}" for name, limit in named if limit) or "none"


def _store(options: argparse.Namespace) -> "Store":
    from headrace.key_store import Store, default_file

    return Store(Path(options.file).expanduser() if options.file else _named_file() or default_file())


def _named_file() -> Path | None:
    """What ./headrace.yaml names, if it does. Raises SpecError for one with mistakes."""
    spec = _spec()
    where = (spec.gateway.keys or "") if spec else ""
    return Path(where.removeprefix("file:")) if where.startswith("file:") else None


def _spec() -> "Spec | None":
    """What ./headrace.yaml says, if there is one. Raises SpecError."""
    if usual() is None:
        return None
    from headrace.spec.load import load

    return load(USUAL)


def _prices(budget: str, models: list[str]) -> str:
    """What is to be said of a budget in money: where prices are missing, or in another currency."""
    from headrace.money import parse_money

    spec, currency = _spec(), parse_money(budget).currency
    if spec is None:
        return f"It counts what models cost: write models.NAME.price in {currency} into the file that is served."
    if spec.gateway.currency != currency:
        return (
            f"The prices of ./{USUAL} are in {spec.gateway.currency} and the budget in {currency}: headrace serve refuses that."
        )
    free = [name for name, model in spec.models.items() if model.price is None and (not models or name in models)]
    return f"No price is known for {', '.join(free)}: its tokens cost nothing. Write models.{free[0]}.price." if free else ""


def _budget(text: str) -> int | str:
    """Tokens, or money as it was written: 50M, 50 USD."""
    from headrace.money import parse_money

    if _COUNT.fullmatch(text.strip()):
        return _count(text)
    try:
        return str(parse_money(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, or tokens: 50M") from None


def _count(text: str) -> int:
    """A limit: 600, 200k, 1.5M; decimal, as providers count them."""
    match = _COUNT.fullmatch(text.strip())
    number = round(float(match[1]) * _FACTORS[match[2].lower()]) if match else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f'"{text[:40]}" is not a number above 0; write 600, 200k or 1.5M')
    return number


def _remark(text: str) -> None:
    """For people, beside what a program may read."""
    import sys

    print(text, file=sys.stderr)
