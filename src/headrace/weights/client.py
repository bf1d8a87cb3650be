"""HTTP for downloads: TLS roots from the environment, logins kept to their host, errors in words."""

import base64
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from headrace import __version__
from headrace.errors import WeightsError
from headrace.spec.addresses import LOOPBACK

TIMEOUT_SECONDS = 30.0
"""How long a server may say nothing before the connection is given up."""

_CAUSES = {
    401: (
        "needs a login, or is not there",
        "For the Hugging Face hub set HF_TOKEN; for a package index put the login in its URL.",
    ),
    403: (
        "is not open to this login",
        "Ask its owner for access; a gated model needs its terms accepted on its web page.",
    ),
    404: ("is not there (404)", "Check the spelling and the revision."),
    410: ("is gone (410)", "Name another revision."),
    429: ("refuses because of too many requests (429)", "Try again later."),
}


class Client:
    """Opens URLs. `environment` gives TLS roots (PIP_CERT; SSL_CERT_FILE is OpenSSL's own); proxies are urllib's."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._roots = environment.get("PIP_CERT")
        self._opener: urllib.request.OpenerDirector | None = None

    def get(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """The open response to a GET; close it. Raises URLError and HTTPError, which are OSErrors, and WeightsError."""
        url, login = without_login(url)
        if url.startswith("http:") and urlsplit(url).hostname not in LOOPBACK:
            raise WeightsError(f"{shown(url)} can be changed on its way by anyone.", "Use an address with https.")
        everything = {"User-Agent": f"headrace/{__version__}", **headers, **login}
        request = urllib.request.Request(url, headers=everything)
        response: http.client.HTTPResponse = self._open().open(request, timeout=TIMEOUT_SECONDS)
        return response

    def page(self, url: str, headers: Mapping[str, str], what: str, most: int = 64 * 2**20) -> tuple[bytes, str]:
        """(body, content type) of a small page. Raises WeightsError that says what failed and why."""
        try:
            with self.get(url, headers) as response:
                return response.read(most), response.headers.get_content_type()
        except (OSError, http.client.HTTPException) as error:
            raise failure(error, what, url) from error

    def _open(self) -> urllib.request.OpenerDirector:
        if self._opener is None:  # loading the TLS roots takes tens of milliseconds
            context = ssl.create_default_context()
            if self._roots:
                context.load_verify_locations(self._roots)
            https = urllib.request.HTTPSHandler(context=context)
            self._opener = urllib.request.build_opener(https, _Redirects())
        return self._opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    """urllib sends every header on to wherever it is redirected; a login must not go to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"{shown(req.full_url)} redirects to an address without TLS")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            request.remove_header("Authorization")
        return request


def without_login(url: str) -> tuple[str, dict[str, str]]:
    """`https://user:secret@host/…` as the plain URL and the header that carries the login."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return plain, {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def shown(url: str) -> str:
    """`url` as it may be printed: without login and without query, where signed URLs keep their secret."""
    parts = urlsplit(without_login(url)[0])
    return urlunsplit(parts._replace(query="", fragment=""))


def failure(error: Exception, what: str, url: str) -> WeightsError:
    """`error` of getting `what` from `url`, as an error for the person at the terminal."""
    if isinstance(error, WeightsError):
        return error
    if isinstance(error, urllib.error.HTTPError):
        status = error.code
        error.close()
        cause, fix = _CAUSES.get(status, (f"cannot be had now (HTTP {status})", "Try again later."))
        return WeightsError(f"{what} {cause}: {shown(url)}.", fix)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return WeightsError(
        f"{what} cannot be fetched: {urlsplit(url).hostname}: {reason}.",
        "Check the network; what is in the cache already needs none.",
    )


def unreachable(error: Exception) -> bool:
    """Nobody answers there: trying again at once does not help."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, socket.gaierror | ConnectionRefusedError | ssl.SSLCertVerificationError | str)


def transient(error: Exception) -> bool:
    """May pass by itself: a cut connection, a server that is busy or restarts."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429, 500, 502, 503, 504)
    return not unreachable(error)


def header(message: Message, name: str) -> str | None:
    value = message.get(name)
    return str(value) if value is not None else None
