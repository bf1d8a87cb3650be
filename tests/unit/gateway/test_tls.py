"""TLS: who is let in with what, certificates that change and end, handshakes that do not. Real sockets, both event loops."""

import asyncio
import errno
import os
import socket
import ssl
from dataclasses import replace

import pytest

from headrace.gateway.certificate import Certificate
from headrace.spec.tls import TlsSpec

from .certificates import authority, pair, turn
from .clients import Ended, chat, get, request
from .engines import ANSWER, Gate, eventually, whole

DAY = 86_400.0


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """A folder with an authority, two certificates of it for the gateway, one for a client, and one of nobody known."""
    folder = tmp_path_factory.mktemp("issued")
    authority(folder)
    authority(folder, "others")
    pair(folder, "first", days=90)
    pair(folder, "second", days=10)
    pair(folder, "client")
    pair(folder, "stranger", signer="others")
    return folder


@pytest.fixture
def files(issued, tmp_path):
    """Where the gateway reads: a copy of the first pair."""
    turn(tmp_path, issued, "first")
    return TlsSpec(cert=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key"))


@pytest.fixture
def trust(issued):
    return ssl.create_default_context(cafile=issued / "ca.crt")


@pytest.fixture
def said():
    return []


@pytest.fixture
async def world(open_world, files, trust, said):
    return await open_world(certificate=Certificate(files, said.append), trust=trust, body=64 << 20)


def shown(client):
    """Whom the gateway says it is."""
    return dict(part[0] for part in client.tls.getpeercert()["subject"])["commonName"]


async def asked(client):
    await client.send(get("/health"))
    return await client.answer()


async def plain(world):
    """A connection without TLS."""
    world.trust, trust = None, world.trust
    client = await world.client()
    world.trust = trust
    return client


# ---- requests and answers


async def test_requests_are_answered_one_after_the_other_on_one_connection(world):
    engine = await world.engine()
    client = await world.client()
    for _ in range(3):
        await client.send(chat())
        assert (await client.answer()).body == ANSWER
    await client.send(chat(stream=True))
    assert (await client.answer()).events[-1] == b"[DONE]"
    assert len(engine.lines) == 1


async def test_large_bodies_pass_both_ways(world):
    async def echoes(asked):
        asked.write(whole(asked.body))

    await world.engine(echoes)
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%s"}]}' % (b"x" * (20 << 20))
    client = await world.client()
    sending = asyncio.create_task(client.send(request(body)))
    answer = await client.answer()
    await sending
    assert answer.whole
    assert len(answer.body) > 20 << 20


async def test_the_application_knows_that_it_is_asked_over_tls(world):
    assert world.gateway.door.scheme == "https"
    assert (await world.ask(get("/health"))).status == 200


async def test_a_refused_body_is_answered_before_the_connection_ends(world):
    client = await world.client()
    await client.send(request(b"", "Content-Length: 999999999", length=False))
    assert (await client.answer()).status == 413
    await client.gone()


# ---- handshakes


@pytest.mark.parametrize(
    ("version", "taken"),
    [(ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_versions_before_1_2_are_refused(world, trust, version, taken):
    trust.set_ciphers("ALL:@SECLEVEL=0")
    trust.minimum_version, trust.maximum_version = min(version, trust.minimum_version), version
    if taken:
        assert (await world.ask(get("/health"))).status == 200
    else:
        with pytest.raises((Ended, ssl.SSLError)):
            await world.client()
        assert world.gateway.door.tls[1] == 1


async def test_http_1_1_is_agreed_on_and_clients_of_http_2_are_told_of_it(world, trust):
    trust.set_alpn_protocols(["h2", "http/1.1"])
    assert (await world.client()).tls.selected_alpn_protocol() == "http/1.1"


async def test_plain_http_is_told_that_this_is_tls(world):
    client = await plain(world)
    await client.send(chat())
    answer = await client.answer()
    assert (answer.status, answer.error["code"], answer.headers["connection"]) == (400, "https_needed", "close")
    await client.gone()
    assert world.gateway.door.tls[1] == 1


@pytest.mark.parametrize("data", [b"\x00\x01", b"\x80\x2e\x01", b"\x16not a hello at all, but as long as one could be....."])
async def test_what_is_neither_is_closed(world, data):
    client = await plain(world)
    await client.send(data)
    assert b"HTTP" not in await client.rest()


@pytest.mark.parametrize("data", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_handshake_that_does_not_end_is_ended(world, monkeypatch, data):
    monkeypatch.setattr("headrace.gateway.tls.HANDSHAKE_SECONDS", 0.2)
    client = await plain(world)
    await client.send(data)
    await client.rest()
    await eventually(lambda: not world.gateway.door.handshakes, "it is forgotten")
    assert world.gateway.door.tls[1] == 1
    assert not world.gateway.clients


async def test_who_dawdles_does_not_keep_others_out(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.tls.MOST_HANDSHAKES", 3)
    dawdlers = [await plain(world) for _ in range(5)]
    await dawdlers[0].rest()
    await dawdlers[1].rest()
    assert (await world.ask(get("/health"))).status == 200
    assert world.gateway.door.handshakes <= 3


async def test_handshakes_count_as_connections_of_their_address(world, monkeypatch):
    monkeypatch.setattr("headrace.gateway.tls.place", lambda address: "somewhere")
    monkeypatch.setattr("headrace.gateway.wire.place", lambda address: "somewhere")
    connections = world.gateway.connections
    connections.limits = replace(connections.limits, per_address=3)
    settled = [await world.client() for _ in range(2)]
    dawdlers = [await plain(world) for _ in range(3)]
    await dawdlers[0].rest()
    await dawdlers[1].rest()
    await eventually(lambda: world.gateway.door.handshakes == 1, "as many as there is room for")
    assert connections.refused["address"] == 2
    third = await world.client()  # the last dawdler makes room for it
    assert (await asked(third)).status == 200
    fourth = await world.client()  # its handshake goes on: that there is no room can be said only after it
    assert ((await fourth.answer()).status, world.gateway.door.handshakes) == (429, 0)
    assert (await asked(settled[0])).status == 200


async def test_handshakes_take_descriptors_as_connections_do(world):
    connections = world.gateway.connections
    connections.limits = replace(connections.limits, connections=3)
    settled = await world.client()
    dawdlers = [await plain(world) for _ in range(4)]
    await dawdlers[0].rest()
    await dawdlers[1].rest()
    await eventually(lambda: world.gateway.door.handshakes == 2, "as many as there is room for")
    assert connections.refused["all"] == 2
    assert (await asked(settled)).status == 200


async def test_a_client_that_leaves_before_its_handshake_is_forgotten(world):
    client = await plain(world)
    await eventually(lambda: world.gateway.door.handshakes, "it was accepted")
    client.close()
    await eventually(lambda: not world.gateway.door.handshakes, "it is forgotten")


async def test_without_descriptors_nobody_is_accepted_until_there_are_some(world):
    class Full(socket.socket):
        """A listening socket of a process without descriptors, for once."""

        refused = 0

        def accept(self):
            if not Full.refused:
                Full.refused += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    door = world.gateway.door
    door.stop()
    real = door.sockets[0]
    door.sockets = [Full(fileno=real.detach())]
    await door.start()
    assert (await world.ask(get("/health"))).status == 200
    assert Full.refused == 1


async def test_a_drain_waits_for_handshakes(world):
    client = await plain(world)
    await eventually(lambda: world.gateway.door.handshakes, "it was accepted")
    draining = asyncio.create_task(world.gateway.drain(5.0))
    await eventually(lambda: world.gateway.draining, "it drains")
    assert not draining.done()
    client.close()
    assert await draining == 0


async def test_only_known_clients_are_let_in(open_world, issued, files, trust):
    wanted = files.model_copy(update={"clients": str(issued / "ca.crt")})
    world = await open_world(certificate=Certificate(wanted, lambda text: None), trust=trust)

    async def asked():
        try:
            return (await world.ask(get("/health"))).status
        except (Ended, ssl.SSLError):
            return None

    assert await asked() is None, "it shows no certificate"
    trust.load_cert_chain(issued / "stranger.crt", issued / "stranger.key")
    assert await asked() is None, "nobody known signed its certificate"
    trust.load_cert_chain(issued / "client.crt", issued / "client.key")
    assert await asked() == 200


# ---- certificates that change


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr("headrace.gateway.certificate.LOOK_SECONDS", 0.02)


async def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(world, issued, tmp_path, said, quickly):
    gate = Gate()
    await world.engine(gate)
    before = await world.client()
    assert shown(before) == "first"
    await before.send(chat())
    await eventually(lambda: world.running, "it is being answered")
    turn(tmp_path, issued, "second")
    await eventually(lambda: any("another certificate is in force" in text for text in said), "it is said")
    assert shown(await world.client()) == "second"
    gate.let(1)
    assert (await before.answer()).body == ANSWER


async def test_a_pair_that_does_not_match_is_told_of_once_and_the_old_one_stays(world, issued, tmp_path, said, quickly):
    turn(tmp_path, issued, "second", "crt")
    await eventually(lambda: "stays as it was" in said[-1], "it is said")
    count = len(said)
    assert shown(await world.client()) == "first"
    await asyncio.sleep(0.2)  # several looks
    assert len(said) == count, "once"
    turn(tmp_path, issued, "second", "key")
    await eventually(lambda: len(said) > count + 1, "the pair is whole again")
    assert shown(await world.client()) == "second"


async def test_links_may_be_turned_as_the_kubelet_does(open_world, issued, tmp_path, trust, said, quickly):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        turn(tmp_path / name, issued, name)
    (tmp_path / "..data").symlink_to("first")
    for file in ("tls.crt", "tls.key"):
        (tmp_path / file).symlink_to(f"..data/{file}")
    wanted = TlsSpec(cert=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key"))
    world = await open_world(certificate=Certificate(wanted, said.append), trust=trust)
    assert shown(await world.client()) == "first"
    (tmp_path / "..new").symlink_to("second")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    await eventually(lambda: any("another certificate" in text for text in said), "it is said")
    assert shown(await world.client()) == "second"
    assert not any("stays as it was" in text for text in said)


async def test_a_file_that_is_gone_for_a_while_changes_nothing(world, issued, tmp_path, said, quickly):
    (tmp_path / "tls.key").unlink()
    await eventually(lambda: "cannot be read: No such file" in said[-1], "it is said")
    assert shown(await world.client()) == "first"


async def test_metrics_say_how_long_it_is_good(world):
    page = (await world.ask(get("/metrics"))).body.decode()
    (line,) = [line for line in page.splitlines() if line.startswith("headrace_tls_certificate_seconds ")]
    assert 89 * DAY < float(line.split()[1]) <= 90 * DAY
