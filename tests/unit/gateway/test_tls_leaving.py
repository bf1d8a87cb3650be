"""The same claims of clients that leave, read or send slowly, made of clients that speak TLS."""

import ssl

import pytest

from headrace.gateway.certificate import Certificate
from headrace.spec.tls import TlsSpec

from .certificates import authority, pair
from .test_leaving import *  # noqa: F403


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    folder = tmp_path_factory.mktemp("issued")
    authority(folder)
    cert, key = pair(folder, "gateway")
    return TlsSpec(cert=str(cert), key=str(key)), ssl.create_default_context(cafile=folder / "ca.crt")


@pytest.fixture
async def world(open_world, issued):
    wanted, trust = issued
    return await open_world(certificate=Certificate(wanted, lambda text: None), trust=trust)
