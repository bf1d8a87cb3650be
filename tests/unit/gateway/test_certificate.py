"""A certificate: what is said of it and when, which files are refused and why, and until when it is good by its own words."""

import os
import shutil
import ssl
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway import certificate as certificates
from headrace.gateway.certificate import SOON_SECONDS, Certificate, CertificateError
from headrace.gateway.x509 import validity
from headrace.spec.tls import TlsSpec
from tests.no_descriptors import no_descriptors

from .certificates import authority, openssl, pair, turn

DAY = 86_400.0


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    folder = tmp_path_factory.mktemp("issued")
    authority(folder)
    pair(folder, "first", days=90)
    pair(folder, "second", days=10)
    return folder


@pytest.fixture
def files(issued, tmp_path):
    """Where the gateway reads: a copy of the first pair."""
    turn(tmp_path, issued, "first")
    return TlsSpec(cert=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key"))


@pytest.fixture
def said():
    return []


def test_the_end_is_remarked_on_once_when_it_is_near_and_once_when_it_is_over(files, said):
    now = time.time()
    certificate = Certificate(files, said.append, lambda: now)
    end = certificate.not_after
    assert [text for text in said if text.startswith("!")] == []
    for now in (end - SOON_SECONDS - 5, end - SOON_SECONDS + 5, end - SOON_SECONDS + 500, end + 5, end + 500):  # noqa: B007
        certificate.look()
    near, over = (text for text in said if text.startswith("!"))
    assert "14d from now" in near or "13d23h from now" in near
    assert "ended on" in over
    assert certificate.seconds_left == -500


def test_a_key_that_every_user_can_read_is_remarked_on(files, said):
    os.chmod(files.key, 0o644)
    Certificate(files, said.append)
    assert f"chmod o-r {files.key}" in said[0]


def locked(folder, issued):
    openssl(folder, "pkey", "-in", str(issued / "first.key"), "-aes256", "-passout", "pass:secret", "-out", "tls.key")


WRONG = [
    # what is done to the files, what the error says
    (lambda folder, issued: (folder / "tls.crt").unlink(), "gateway.tls.cert: {crt} cannot be read: No such file"),
    (lambda folder, issued: (folder / "tls.key").unlink(), "gateway.tls.key: {key} cannot be read: No such file"),
    (lambda folder, issued: turn(folder, issued, "second", "key"), "gateway.tls.key: {key} is not the key of {crt}."),
    (locked, "gateway.tls.key: {key} has a password, and nobody is there to be asked for it."),
    (lambda folder, issued: (folder / "tls.crt").write_text("hello"), "gateway.tls.cert: {crt} has no certificate in PEM."),
    (lambda folder, issued: (folder / "tls.key").write_text("hello"), "gateway.tls.key: {key} has no private key in PEM."),
    (lambda folder, issued: shutil.copy(folder / "tls.key", folder / "tls.crt"), "gateway.tls.cert: {crt} has no certificate"),
    (lambda folder, issued: (folder / "tls.crt").write_bytes(b"x" * 2_000_000), "gateway.tls.cert: {crt} is larger than"),
    (
        lambda folder, issued: (folder / "tls.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
        "gateway.tls.cert: {crt} is no certificate",
    ),
]


@pytest.mark.parametrize(("spoil", "says"), WRONG)
def test_what_cannot_be_shown_is_refused_with_the_file_and_the_cause(files, issued, tmp_path, said, spoil, says):
    spoil(tmp_path, issued)
    with pytest.raises(CertificateError) as error:
        Certificate(files, said.append)
    assert says.format(crt=files.cert, key=files.key) in str(error.value)


def test_files_that_go_while_they_are_read_leave_what_there_was(files, issued, tmp_path, said, monkeypatch):
    now, read = time.time(), certificates._text
    certificate = Certificate(files, said.append, lambda: now)
    before = certificate.context

    def turning(part, path):
        text = read(part, path)
        if part == "key":
            path.unlink()
        return text

    monkeypatch.setattr(certificates, "_text", turning)
    turn(tmp_path, issued, "second")
    now += 2
    certificate.look()
    assert certificate.context is before
    assert "stays as it was" in said[-1]
    monkeypatch.undo()
    turn(tmp_path, issued, "second")
    now += 2
    certificate.look()
    assert "another certificate is in force" in said[-2]


def test_files_that_cannot_be_read_for_a_moment_are_told_of_once_and_read_when_they_can(files, issued, tmp_path, said):
    now = time.time()
    certificate = Certificate(files, said.append, lambda: now)
    before = certificate.context
    turn(tmp_path, issued, "second")
    with no_descriptors():
        for _ in range(3):
            now += 2
            certificate.look()
    assert certificate.context is before
    assert [text for text in said if "stays as it was" in text] == [said[-1]]
    assert "Too many open files" in said[-1]
    now += 2
    certificate.look()
    assert certificate.context is not before


def test_a_file_that_is_away_just_when_it_is_used_is_used_when_it_is_back(files, issued, tmp_path, said, monkeypatch):
    """As it was: nothing of it has changed."""
    now, read = time.time(), certificates._text
    certificate = Certificate(files, said.append, lambda: now)
    before = certificate.context

    def moving(part, path):
        text = read(part, path)
        if part == "key":
            path.rename(tmp_path / "aside")
        return text

    turn(tmp_path, issued, "second")
    monkeypatch.setattr(certificates, "_text", moving)
    now += 2
    certificate.look()
    assert certificate.context is before
    monkeypatch.undo()
    (tmp_path / "aside").rename(files.key)
    now += 2
    certificate.look()
    assert certificate.context is not before


def test_a_certificate_says_what_openssl_says_of_it(issued):
    path = issued / "second.crt"
    said = subprocess.run(["openssl", "x509", "-in", path, "-noout", "-dates"], capture_output=True, text=True, check=True).stdout
    dates = [ssl.cert_time_to_seconds(line.partition("=")[2]) for line in said.splitlines()]
    assert list(validity(ssl.PEM_cert_to_DER_cert(path.read_text()))) == dates


def test_years_beyond_2049_are_understood(tmp_path):
    authority(tmp_path)
    pair(tmp_path, "long", days=40_000)
    _, end = validity(ssl.PEM_cert_to_DER_cert((tmp_path / "long.crt").read_text()))
    assert end - time.time() == pytest.approx(40_000 * DAY, abs=DAY)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_certificate_or_refused(data):
    with pytest.raises(ValueError, match="is no certificate"):
        validity(data)


@given(st.data())
def test_a_cut_or_spoilt_certificate_is_refused_or_has_dates(issued, data):
    der = bytearray(ssl.PEM_cert_to_DER_cert((issued / "first.crt").read_text()))
    place = data.draw(st.integers(0, len(der) - 1))
    der[place] = data.draw(st.integers(0, 255))
    try:
        first, last = validity(bytes(der[: data.draw(st.integers(0, len(der)))]))
    except ValueError:
        return
    assert isinstance(first, float)
    assert isinstance(last, float)
