"""A server's URL, and what every request to it begins with."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from headrace.errors import UsageError
from headrace.spec.addresses import joined

_SOUND = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an OpenAI-compatible API is. `base` is the path before `/chat/completions`, as in `/v1`."""

    secure: bool
    host: str
    port: int
    base: str

    def __str__(self) -> str:
        return f"http{'s' if self.secure else ''}://{self.where}{self.base}"

    @property
    def where(self) -> str:
        """The host, and the port where it is not the usual one."""
        return joined(self.host, self.port).removesuffix(f":{443 if self.secure else 80}")

    def head(self, path: str, key: str) -> bytes:
        """The head of a POST of JSON, up to the value of Content-Length."""
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        return (
            f"POST {self.base}{path} HTTP/1.1\r\nHost: {self.where}\r\nUser-Agent: headrace-bench\r\n"
            f"Accept: text/event-stream\r\n{authorization}Content-Type: application/json\r\nContent-Length: "
        ).encode()


def parse(url: str) -> Address:
    """`http://host:8000/v1`; `/v1` is meant where there is no path. Raises UsageError."""
    wrong = UsageError(f"--url: {_without_password(url)!r} is no address of a server.", "Write http://127.0.0.1:8000/v1.")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not _SOUND.fullmatch(url) or parts.query or parts.fragment:
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise UsageError("--url: credentials do not belong into an address, which others can read.", "Use --key env:NAME.")
    secure = parts.scheme == "https"
    base = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/completions") or "/v1"
    return Address(secure, parts.hostname, port or (443 if secure else 80), base)


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)
