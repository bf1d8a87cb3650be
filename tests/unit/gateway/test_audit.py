"""The audit log: every act of an administrator at a real gateway, who it was and what came of it, one line each."""

import json
from hashlib import sha256

import pytest

from headrace.gateway.accounts import Key
from headrace.gateway.audit import Audit, Audited, _what, asker
from headrace.gateway.keys import Keys

from .clients import get, request
from .engines import eventually
from .test_dashboard import pages  # noqa: F401  # a fixture
from .test_graduation_paths import fake  # noqa: F401  # a fixture

OPS = "Authorization: Bearer secret-of-ops"


@pytest.fixture
def audited(world, tmp_path):
    """`await audited(count)` gives the entries, once there are so many."""
    file = tmp_path / "cache" / "audit.jsonl"
    audit = Audit(file, print)
    world.gateway._app = Audited(world.admin.app, audit)

    async def entries(count=1):
        await eventually(lambda: file.read_bytes().count(b"\n") >= count, f"{count} lines")
        found = [json.loads(line) for line in file.read_bytes().splitlines()]
        assert len(found) == count
        assert file.stat().st_mode & 0o777 == 0o600
        return found

    entries.audit = audit
    yield entries
    audit.close()


def with_keys(world):
    keys = [Key("ops", sha256(b"secret-of-ops").digest(), admin=True), Key("dev", sha256(b"secret-of-dev").digest())]
    world.gateway.keys = Keys(keys)
    world.admin.graduations.keyed = True


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_wish_is_on_record_with_who_asked_and_so_is_one_that_cannot_be(world, pages, audited, keyed):  # noqa: F811
    _, control = pages
    fields = [OPS] if keyed else []
    if keyed:
        with_keys(world)
    assert (await world.ask(request(b"model=chat&want=2", *fields, target="/admin/wanted"))).status == 200
    assert (await world.ask(request(b"model=chat&want=stopped", *fields, target="/admin/wanted"))).status == 400
    done, refused = await audited(2)
    by = "ops" if keyed else "someone on this machine"
    assert done.pop("time").endswith("Z")
    assert done == {
        "by": by, "from": "127.0.0.1", "action": "scale", "what": {"model": "chat", "want": "2"}, "outcome": "accepted",
    }  # fmt: skip
    assert (refused["action"], refused["outcome"]) == ("stop", "refused with 400: that cannot be")
    assert control.wishes["chat"] == f"held at 2 by {by}", "the name is kept with the wish"


async def test_graduations_are_on_record_and_know_who_asked(world, fake, audited):  # noqa: F811
    with_keys(world)
    assert (await world.ask(request(b'{"model": "chat", "to": "vllm"}', OPS, target="/admin/graduations"))).status == 202
    assert (await world.ask(request(b'{"model": "chat"}', OPS, target="/admin/graduations/abort"))).status == 202
    begun, aborted = await audited(2)
    assert (begun["by"], begun["action"], begun["what"]) == ("ops", "graduate", {"model": "chat", "to": "vllm"})
    assert (aborted["action"], aborted["outcome"]) == ("abort graduation", "accepted")
    assert fake.by == ["ops", "ops"]


async def test_what_only_reads_and_what_is_not_let_in_is_not_on_record(world, pages, audited):  # noqa: F811
    """Who was not let in stands in the access log."""
    with_keys(world)
    await world.ask(get("/admin/status", OPS))
    assert (await world.ask(request(b"model=chat&want=2", "x-api-key: secret-of-dev", target="/admin/wanted"))).status == 403
    await world.ask(request(b"model=chat&want=2", OPS, target="/admin/wanted"))
    (only,) = await audited(1)
    assert only["by"] == "ops"


@pytest.mark.parametrize(
    "body", [b"\xff\xfe\n\x1b[2J", b'{"model": "\\n\\u009b\x7f", "want": "' + b"x" * 9000 + b'"}', b"[" * 9000, b"&" * 9000]
)
async def test_hostile_bodies_stay_one_line_of_printable_text(world, pages, audited, tmp_path, body):  # noqa: F811
    await world.ask(request(body, target="/admin/wanted"))
    await audited(1)
    written = (tmp_path / "cache" / "audit.jsonl").read_bytes()
    assert written[:-1].decode("ascii").isprintable()
    assert len(written) < 2000


async def test_keys_that_came_and_went_are_on_record(audited):
    audited.audit.keys(["a", "b"], ["b", "c"])
    audited.audit.keys(["b", "c"], ["c", "b"])
    (entry,) = await audited(1)
    assert (entry["action"], entry["what"]) == ("keys", {"added": ["c"], "revoked": ["a"]})


async def test_a_record_that_cannot_be_kept_is_said_and_stops_nothing(world, pages, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("in the way")
    said = []
    audit = Audit(tmp_path / "file" / "audit.jsonl", said.append)
    world.gateway._app = Audited(world.admin.app, audit)
    assert (await world.ask(request(b"model=chat&want=2", target="/admin/wanted"))).status == 200
    assert len(said) == 1
    audit.close()


@pytest.mark.parametrize(
    ("client", "who"),
    [
        (("127.0.0.1", 0), "someone on this machine"),
        (("::1", 0), "someone on this machine"),
        (("::ffff:127.0.0.1", 0), "someone on this machine"),
        (None, "someone on this machine"),
        (("10.1.2.3", 0), "someone at 10.1.2.3"),  # --insecure
        (("fe80::1%eth0", 0), "someone at fe80::1%eth0"),
    ],
)
def test_without_keys_it_is_said_where_somebody_was(client, who):
    assert asker({"headrace.account": None, "client": client}) == who


@pytest.mark.parametrize("body", [b'{"patience": NaN}', b'{"patience": -Infinity}', b'{"patience": 1e999}'])
def test_a_line_is_json_whatever_was_asked(body):
    """Python reads numbers that JSON does not have, and would write them."""
    assert isinstance(json.loads(json.dumps(_what(body), allow_nan=False))["patience"], str)
