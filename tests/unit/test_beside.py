"""Memory of a Headrace that starts beside another one, and what `gateway.tls` may be in a file."""

from pathlib import Path

import pytest

from headrace import prepare
from headrace.errors import SpecError, UsageError
from headrace.facts.hardware import Machine
from headrace.handover.line import Held
from headrace.prepare import this_machine
from headrace.rendering import _without_tls
from headrace.spec.load import loads

GB = 10**9
FILE = "models: {chat: hf:org/name}\n"


@pytest.mark.parametrize(
    ("limit", "planned", "resident", "free"),
    [
        (None, 0, 0, 10),  # alone
        (None, 4, 4, 10),  # what it has taken is not free in the first place
        (None, 4, 1, 7),  # what it will yet take is not free either
        (None, 4, 6, 10),  # files that it has mapped are no debt
        (None, 20, 1, 0),  # never less than nothing
        ("8GB", 4, 4, 4),  # of the file's limit it has its part
        ("8GB", 4, 1, 4),
        ("6GB", 6, 6, 0),
    ],
)
def test_what_another_one_holds_is_counted(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, planned: int, resident: int, free: int
) -> None:
    monkeypatch.setattr(prepare, "machine", lambda: Machine(4, 16 * GB, 10 * GB))
    spec = loads(FILE + (f"machine: {{memory: {limit}}}\n" if limit else ""))
    assert this_machine(spec, Held({}, planned * GB, resident * GB)).memory_free_bytes == free * GB


def test_paths_of_a_certificate_start_at_the_files_folder(tmp_path: Path) -> None:
    spec = loads(FILE + "gateway: {tls: {cert: a/tls.crt, key: /k/tls.key}}\n", folder=tmp_path)
    assert spec.gateway.tls
    assert (spec.gateway.tls.cert, spec.gateway.tls.key) == (str(tmp_path / "a" / "tls.crt"), "/k/tls.key")


@pytest.mark.parametrize(
    ("tls", "says"),
    [
        ("{cert: a.pem}", "2:16: gateway.tls.key: is missing"),
        ("{cert: a.pem, kay: b.pem, key: c.pem}", "gateway.tls.kay: is not a key here. Did you mean key?"),
        ("a.pem", "gateway.tls: must be a mapping"),
        ("{cert: '', key: b.pem}", "gateway.tls.cert"),
    ],
)
def test_mistakes_in_it_are_told_where_they_stand(tls: str, says: str) -> None:
    with pytest.raises(SpecError, match=says.replace("?", r"\?")):
        loads(FILE + f"gateway: {{tls: {tls}}}\n")


def test_a_file_with_a_certificate_of_this_machine_is_not_rendered() -> None:
    with pytest.raises(UsageError, match=r"gateway.tls: its files are this machine's, which pods do not see"):
        _without_tls(loads(FILE + "gateway: {tls: {cert: a.pem, key: b.pem}}\n"))
