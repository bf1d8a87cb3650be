"""The gateway's certificate: read, and read again when its files change; until when it is good, said before it is not."""

import os
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from headrace.changed import Followed
from headrace.errors import HeadraceError
from headrace.gateway.x509 import validity
from headrace.spec.tls import TlsSpec
from headrace.units import show_duration

LOOK_SECONDS = 1.0
"""How often the files are looked at. The kubelet takes up to a minute to bring a changed Secret."""
SOON_SECONDS = 14 * 86_400.0
"""So long before its end a certificate is remarked on. What renews does it sooner: after two thirds of its time, as a rule."""
LARGEST_BYTES = 1_000_000

Part = Literal["cert", "key", "clients"]


class CertificateError(HeadraceError):
    """A certificate that cannot be shown to clients."""

    exit_code = 78


class CertificateUnread(CertificateError):
    """The system refused to read it, which may pass."""


class Certificate:
    """`gateway.tls` of the spec. `context` is what new connections get; `say` tells of what is wrong, once for each change.

    Files may be links that are turned to others, all at once (the kubelet) or one after the other: a pair that does not match
    is not taken, and the next look takes the one that does.
    """

    def __init__(self, wanted: TlsSpec, say: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self._files: dict[Part, Path] = {"cert": Path(wanted.cert), "key": Path(wanted.key)}
        if wanted.clients is not None:
            self._files["clients"] = Path(wanted.clients)
        self._say, self._clock = say, clock
        self._followed = Followed(*self._files.values())
        self._followed.changed()
        self._looked = clock()
        self._told: tuple[float, str] | None = None
        self.context, self.not_after = self._read()
        """`not_after` in seconds since 1970."""
        self._followed.read()
        say(f"TLS: {self._files['cert']} is good until {_day(self.not_after)}{self._left()}.")
        self._remark()

    @property
    def seconds_left(self) -> float:
        """Until it is good no more; negative after that."""
        return self.not_after - self._clock()

    def look(self) -> None:
        """Read the files again where they changed; at most once a second, however often it is called."""
        if 0 <= self._clock() - self._looked < LOOK_SECONDS:
            return
        self._looked = self._clock()
        if self._followed.changed():
            self._again()
        self._remark()

    def _again(self) -> None:
        try:
            self.context, self.not_after = self._read()
        except CertificateError as error:
            if self._followed.is_news(str(error), unread=isinstance(error, CertificateUnread)):
                self._say(f"The certificate stays as it was: {error}")
        else:
            self._followed.read()
            self._say(f"TLS: another certificate is in force, good until {_day(self.not_after)}{self._left()}.")

    def _remark(self) -> None:
        """Say once of each certificate that its end is near, and once that it is over."""
        left = self.seconds_left
        stage = "over" if left <= 0 else "near" if left < SOON_SECONDS else ""
        if not stage or self._told == (self.not_after, stage):
            return
        self._told = self.not_after, stage
        if stage == "over":
            self._say(f"! The certificate {self._files['cert']} ended on {_day(self.not_after)}: clients refuse it. Replace it.")
        else:
            self._say(f"! The certificate {self._files['cert']} ends on {_day(self.not_after)}{self._left()}: replace it.")

    def _left(self) -> str:
        return f" ({show_duration(self.seconds_left)} from now)" if self.seconds_left > 0 else " (over)"

    def _read(self) -> tuple[ssl.SSLContext, float]:
        """Raises CertificateError."""
        texts = {part: _text(part, path) for part, path in self._files.items()}
        _, not_after = _validity(self._files["cert"], texts["cert"])
        if "PRIVATE KEY-----" not in texts["key"]:
            raise _wrong("key", self._files["key"], "has no private key in PEM")
        if _open_to_all(self._files["key"]):
            self._say(f"! {self._files['key']} can be read by every user of this machine. Run: chmod o-r {self._files['key']}")
        return self._context(), not_after

    def _context(self) -> ssl.SSLContext:
        cert, key = self._files["cert"], self._files["key"]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # of TLS 1.2, which clients could ask for without end
        context.set_alpn_protocols(["http/1.1"])
        locked = _Locked()
        try:
            context.load_cert_chain(cert, key, locked.password)
        except (OSError, ValueError) as error:
            raise _unusable(cert, key, error, locked=locked.asked) from None
        if (clients := self._files.get("clients")) is not None:
            try:
                context.load_verify_locations(clients)
            except OSError as error:
                raise _wrong("clients", clients, f"cannot be used: {error}", kind=_kind(error)) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class _Locked:
    """OpenSSL would ask for the password of a key at the terminal, and wait: it gets none, and that it asked is known."""

    def __init__(self) -> None:
        self.asked = False

    def password(self) -> str:
        self.asked = True
        return ""


def _open_to_all(path: Path) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:  # turned to another since it was read: the next look sees that
        return False


def _text(part: Part, path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise _wrong(part, path, f"cannot be read: {error.strerror}", kind=CertificateUnread) from None
    if len(raw) > LARGEST_BYTES:
        raise _wrong(part, path, f"is larger than {LARGEST_BYTES:,} bytes")
    return raw.decode("latin-1")


def _validity(path: Path, text: str) -> tuple[float, float]:
    """Of the first certificate in a PEM file, which is the one that is shown."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start, stop = text.find(begin), text.find(end)
    if start < 0 or stop < start:
        raise _wrong("cert", path, "has no certificate in PEM")
    try:
        return validity(ssl.PEM_cert_to_DER_cert(text[start : stop + len(end)]))
    except ValueError as error:
        raise _wrong("cert", path, str(error)) from None


def _unusable(cert: Path, key: Path, error: Exception, *, locked: bool) -> CertificateError:
    if locked:
        open_it = f"Write it without one: openssl pkey -in {key} -out NEW.key"
        return _wrong("key", key, "has a password, and nobody is there to be asked for it", open_it)
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return _wrong(
            "key", key, f"is not the key of {cert}", "Each certificate has its own key: name the two that were made together."
        )
    said = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return _wrong("cert", cert, f"and {key} cannot be used together: {said}", kind=_kind(error))


def _kind(error: Exception) -> type[CertificateError]:
    """What OpenSSL thinks of a file it has read is an SSLError, which is an OSError too."""
    return CertificateUnread if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else CertificateError


def _wrong(part: Part, path: Path, what: str, fix: str = "", kind: type[CertificateError] = CertificateError) -> CertificateError:
    return kind(f"gateway.tls.{part}: {path} {what}.", fix)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
