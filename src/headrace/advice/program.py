"""The program that advises for a running gateway: its status in, its advice out, both JSON.

A process of its own, so that reading a long history, which takes a core for a while, never holds up requests.
"""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.advice.advise import Here, here, window
from headrace.advice.text import verdict
from headrace.dashboard.advising import Advice, Told
from headrace.errors import HeadraceError
from headrace.spec.addresses import GATEWAY

_NICE = 5
"""Engines and the gateway come first."""
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def main() -> None:
    """Answer once."""
    os.nice(_NICE)
    sys.stdout.write(msgspec.json.encode(advised(msgspec.json.decode(sys.stdin.buffer.read()))).decode())


def advised(status: Mapping[str, Any]) -> Advice:
    """The advice on every model of a gateway, or why there is none."""
    until, gateway = time.time(), Here(status, at=option(status.get("url", "")))
    try:
        since = window(gateway, until)
        found = here(gateway, None, since, until)
    except HeadraceError as error:
        return Advice(error=str(error))
    rows = {
        model: [Told(one.name, one.holds, one.said, one.advice, one.command, one.sentence) for one in signals]
        for model, signals in found.items()
    }
    return Advice(rows, {model: verdict(signals) for model, signals in found.items()}, until - since)


def option(url: str) -> str:
    """How a command names a gateway that listens there: not at all where it asks it by itself. Whoever listens everywhere is
    asked through loopback.
    """
    for everywhere, loopback in _LOOPBACK.items():
        url = url.replace(f"//{everywhere}:", f"//{loopback}:")
    return f" --url {url}" if url and url != GATEWAY else ""


if __name__ == "__main__":
    main()
