"""Addresses as people write them: where to listen, and servers that already run. Parsed once, here."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_HOST_PORT = re.compile(r"(\[[^\[\]\s]*\]|[^\s\[\]/@:]+):([0-9]{1,5})")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts that are this machine, as addresses name them."""
LISTEN = "127.0.0.1:8000"
"""Where a gateway listens when nobody says."""
GATEWAY = f"http://{LISTEN}"


def host_port(text: str) -> tuple[str, int]:
    """(host, port) of `127.0.0.1:8000`, `[::1]:8000` or `localhost:0`; the host without brackets. Raises ValueError."""
    match = _HOST_PORT.fullmatch(text)
    if not match:
        raise ValueError(_why_not(text))
    host, port = match[1].strip("[]"), int(match[2])
    if not _is_host(match[1]):
        raise ValueError(f'"{match[1]}" is not a host name or an IP address')
    if port > 65535:
        raise ValueError(f"port {port} is above 65535")
    return host, port


def server_url(text: str) -> str:
    """`http://host:port` of a server: lower case, port written out, a final `/v1` or slash dropped. Raises ValueError.

    Messages never repeat the text: people paste URLs with keys in them.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL; write http://host:port") from None
    if reason := _unfit(parts):
        raise ValueError(reason)
    return f"{parts.scheme}://{joined(parts.hostname or '', _DEFAULT_PORTS[parts.scheme] if port is None else port)}"


def joined(host: str, port: int) -> str:
    """`host:port` as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _why_not(text: str) -> str:
    if re.fullmatch(r":[0-9]+", text):
        return f'"{text}" has no host; write 127.0.0.1{text} (this machine only) or 0.0.0.0{text}'
    if text.count(":") > 1 and "[" not in text:
        return f'"{text}": an IPv6 address stands in brackets, as in [::1]:8000'
    if text.isdigit():
        return f'"{text}" has no host; write 127.0.0.1:{text}'
    if ":" not in text:
        return f'"{text}" has no port; write {text or "127.0.0.1"}:8000'
    return f'"{text}" is not host:port, such as 127.0.0.1:8000'


def _unfit(parts: SplitResult) -> str | None:
    """Why a split URL cannot be that of a server."""
    if parts.scheme not in _DEFAULT_PORTS:
        return "is not an http:// or https:// URL; write http://host:port"
    if parts.username is not None or parts.password is not None:
        return "holds a user or password; name an environment variable in `key` instead"
    if not parts.hostname or not _is_host(f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname):
        return "has no host name or IP address that could be reached; write http://host:port"
    if parts.query or parts.fragment:
        return "has a query or fragment; write http://host:port"
    if parts.path.rstrip("/") not in ("", "/v1"):
        return "has a path other than /v1, which is not supported; write http://host:port"
    return None


def _is_host(host: str) -> bool:
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif re.fullmatch(r"[0-9.]+", host):
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return host.startswith("[") or bool(_HOST.fullmatch(host))
