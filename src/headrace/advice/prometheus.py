"""Series over a window, from Prometheus or what answers like it (Azure Monitor, Thanos, Mimir): its HTTP API, bounded.

The token is read from PROMETHEUS_TOKEN; it is sent over TLS or to this machine only, and to no other host by a redirect.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from headrace.advice.metric_names import CLUSTER, ENGINES, GATEWAY, SLOTS, STATE, WANTED
from headrace.advice.series import Page, Series
from headrace.errors import HeadraceError, UsageError
from headrace.spec.addresses import LOOPBACK

TOKEN = "PROMETHEUS_TOKEN"
MOST_LOOKS = 240
LEAST_STEP_SECONDS = 15.0
"""Of Prometheus operators' usual scrapes: looks between two scrapes see nothing new."""
LARGEST_BYTES = 64_000_000
_SECONDS = 30.0
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that is asked. Raises UsageError for an address that is none, or to which the token must not be sent."""

    url: str
    namespace: str | None = None
    token: str = ""

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.url} is no address of a Prometheus.", "Write http://127.0.0.1:9090 or https://….")
        if parts.username or parts.password:
            raise UsageError("The address holds a password, which others can read in the list of processes.", f"Use {TOKEN}.")
        if self.token and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise UsageError(f"{TOKEN} is not sent to {parts.hostname} without TLS.", "Write https://, or kubectl port-forward.")
        if self.namespace is not None and not _NAMESPACE.fullmatch(self.namespace):
            raise UsageError(f'"{self.namespace}" is no namespace.')

    def page(self, since: float, until: float) -> Page:
        """The series of every engine and gateway from `since` until `until` (seconds since 1970). Raises HeadraceError."""
        step = max(LEAST_STEP_SECONDS, (until - since) / MOST_LOOKS)
        times = [since + step * place for place in range(int((until - since) / step) + 1)]
        plain = [name for names in (*ENGINES, GATEWAY) for name in names.all if not name.endswith("_bucket")]
        found = self._range([*plain, SLOTS, STATE, WANTED, *CLUSTER], times, step)
        there = {one.name for one in found}
        buckets = [name for names in ENGINES if there & set(names.waiting) for name in names.all if name.endswith("_bucket")]
        return Page([*found, *(self._range(buckets, times, step) if buckets else ())], times)

    def _range(self, names: Iterable[str], times: list[float], step: float) -> list[Series]:
        where = f',namespace="{self.namespace}"' if self.namespace else ""
        query = f'{{__name__=~"{"|".join(names)}"{where}}}'
        bounds = {"start": f"{times[0]:.3f}", "end": f"{times[-1]:.3f}", "step": f"{step:.3f}", "timeout": f"{_SECONDS:.0f}s"}
        answer = self._asked({"query": query, **bounds})
        return [_series(one, times, step) for one in answer.get("result") or ()]

    def _asked(self, fields: Mapping[str, str]) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url.rstrip("/") + "/api/v1/query_range", urllib.parse.urlencode(fields).encode(), method="POST"
        )
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.build_opener(_Stays).open(request, timeout=_SECONDS + 5) as answer:
                return _data(answer.read(LARGEST_BYTES + 1), self.url)
        except urllib.error.HTTPError as error:
            raise HeadraceError(_refused(error, self.url), _fix(error.code)) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise HeadraceError(f"No Prometheus answers at {self.url}: {reason}.", "Is it the address of its API?") from None


def prometheus(url: str, namespace: str | None) -> Prometheus:
    """The server at `url`, asked with the token of the environment. Raises UsageError."""
    return Prometheus(url, namespace, os.environ.get(TOKEN, ""))


class _Stays(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token would go with it."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _data(body: bytes, url: str) -> dict[str, Any]:
    if len(body) > LARGEST_BYTES:
        raise HeadraceError(f"{url} answered with more than 64 MB.", "Ask about less: --namespace, or a shorter --window.")
    try:
        said = json.loads(body)
        if said["status"] == "success" and said["data"]["resultType"] == "matrix":
            return dict(said["data"])
        raise HeadraceError(f"{url} answered: {said.get('error') or said['status']}.")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HeadraceError(f"{url} answers, but not as a Prometheus does.", "Is it the address of its API?") from None


def _series(one: Mapping[str, Any], times: list[float], step: float) -> Series:
    """With the looks as they were asked for: servers round times to milliseconds."""
    labels = dict(one["metric"])
    points = {}
    for at, text in one["values"]:
        place = round((float(at) - times[0]) / step)
        value = float(text)
        if 0 <= place < len(times) and isfinite(value):
            points[times[place]] = value
    return Series(labels.pop("__name__", ""), labels, points)


def _refused(error: urllib.error.HTTPError, url: str) -> str:
    try:
        why = str(json.loads(error.read(65_536))["error"])[:300]
    except (ValueError, KeyError, TypeError, OSError):
        why = error.reason or ""
    return f"{url} answered {error.code}: {why}."


def _fix(status: int) -> str:
    if status in (401, 403):
        return (
            f"Put a token in {TOKEN}. Azure Monitor: az account get-access-token --resource https://prometheus.monitor.azure.com "
            "--query accessToken -o tsv"
        )
    return "Is it the address of its API?" if status in (301, 302, 307, 308, 404, 405) else ""
