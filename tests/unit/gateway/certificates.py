"""Certificates for tests, made by the openssl command; and a client that speaks TLS over the same raw socket."""

import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from .clients import Client, Ended

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(folder: Path, *arguments: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str = "ca") -> None:
    """`ca.crt` and `ca.key`, which sign others."""
    openssl(
        folder, "req", "-x509", *_EC, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "3650", "-subj", f"/CN={name}"
    )


def pair(folder: Path, name: str, *, days: float = 90, signer: str = "ca") -> tuple[Path, Path]:
    """`NAME.crt` and `NAME.key`, signed, for localhost."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    openssl(folder, "req", *_EC, "-keyout", key.name, "-out", f"{name}.csr", "-subj", f"/CN={name}")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    signed = ("-CA", f"{signer}.crt", "-CAkey", f"{signer}.key", "-CAcreateserial", "-extfile", "names")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-days", str(days), "-out", cert.name)
    key.chmod(0o600)
    return cert, key


def turn(place, issued, name, *kinds):
    """Put a pair, or part of it, where the gateway reads, each at once, as a rename does."""
    for kind in kinds or ("crt", "key"):
        draft = place / f"draft.{kind}"
        draft.write_bytes((issued / f"{name}.{kind}").read_bytes())
        draft.chmod(0o600)
        os.replace(draft, place / f"tls.{kind}")


class SecureClient(Client):
    """A client whose bytes are encrypted on their way to the socket and back."""

    def __init__(self, sock: socket.socket, trust: ssl.SSLContext) -> None:
        super().__init__(sock)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trust.wrap_bio(self._in, self._out, server_hostname="localhost")

    async def shake(self) -> None:
        """The handshake. Raises Ended, and ssl.SSLError when the other side is not believed."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._take()
            else:
                return await self._flush()

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self._flush()

    def finish_sending(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            self.sock.send(self._out.read())
        super().finish_sending()

    async def more(self) -> None:
        while True:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self._take()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self.ended = True
                raise Ended
            self._buffer += data
            return

    async def _flush(self) -> None:
        await super().send(self._out.read())

    async def _take(self) -> None:
        kept, self._buffer = self._buffer, b""
        try:
            await super().more()
            self._in.write(self._buffer)
        finally:
            self._buffer = kept
