"""Commands that ask a gateway over TLS: whose certificates are believed, and what is said when it goes wrong."""

import argparse
import asyncio
import os
import ssl

import pytest

from headrace.cli import url as address
from headrace.drill.client import _connected
from headrace.gateway.certificate import Certificate
from headrace.report import UnreachableError, get
from headrace.spec.tls import TlsSpec

from .certificates import authority, pair


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    folder = tmp_path_factory.mktemp("issued")
    authority(folder)
    authority(folder, "others")
    pair(folder, "gateway")
    return folder


@pytest.fixture
def believing(monkeypatch):
    """Parse a command line as commands do; what it changed of the environment is undone."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    def parse(*arguments):
        monkeypatch.setenv("SSL_CERT_FILE", os.environ.get("SSL_CERT_FILE", os.devnull))
        parser = argparse.ArgumentParser()
        address.add(parser)
        return parser.parse_args(arguments)

    return parse


@pytest.fixture
async def world(open_world, issued):
    wanted = TlsSpec(cert=str(issued / "gateway.crt"), key=str(issued / "gateway.key"))
    trust = ssl.create_default_context(cafile=issued / "ca.crt")
    return await open_world(certificate=Certificate(wanted, lambda text: None), trust=trust)


async def test_a_gateway_is_asked_over_tls(world, believing, issued):
    options = believing("--url", f"https://localhost:{world.port}/v1", "--ca", str(issued / "ca.crt"))
    status = await asyncio.to_thread(get, options.url, "/admin/status")
    assert [model["name"] for model in status["models"]] == ["chat", "vectors"]


async def test_so_does_a_drill(world, believing, issued):
    options = believing("--url", f"https://localhost:{world.port}", "--ca", str(issued / "ca.crt"))

    def health():
        connection = _connected(options.url)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    assert await asyncio.to_thread(health) == 200


@pytest.mark.parametrize(
    ("scheme", "ca", "says"),
    [
        ("https", "others.crt", r"its certificate is not believed \(.*\)\. Give the certificates that signed it: --ca FILE"),
        ("http", "ca.crt", r"This address speaks TLS, .* write https:// in its URL"),
    ],
)
async def test_what_is_wrong_is_said_with_the_way_out(world, believing, issued, scheme, ca, says):
    options = believing("--url", f"{scheme}://localhost:{world.port}", "--ca", str(issued / ca))
    with pytest.raises(Exception, match=says):
        await asyncio.to_thread(get, options.url, "/admin/status")


async def test_a_gateway_without_tls_is_told_apart(open_world, believing, issued):
    plain = await open_world()
    options = believing("--url", f"https://localhost:{plain.port}", "--ca", str(issued / "ca.crt"))
    with pytest.raises(UnreachableError, match=r"TLS failed \(.*\)\. Does it speak TLS\?"):
        await asyncio.to_thread(get, options.url, "/admin/status")


def test_a_file_without_certificates_is_refused(believing, tmp_path, capsys):
    (tmp_path / "empty").write_text("")
    with pytest.raises(SystemExit):
        believing("--ca", str(tmp_path / "empty"))
    assert "has no certificates in PEM" in capsys.readouterr().err
