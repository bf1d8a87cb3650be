"""Files that are as before or as they should be, and nothing that says otherwise."""

import os
from pathlib import Path

import pytest

from headrace.control.journal import written


@pytest.mark.parametrize(("fails_at", "kept"), [(1, b"before"), (2, b"after"), (3, b"after")])
def test_an_error_means_that_the_file_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, kept: bytes
) -> None:
    """The first fsync is the file's, the second its folder's."""
    file, calls, real = tmp_path / "lock", [0], os.fsync
    written(file, b"before")

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == fails_at:
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    raised = False
    try:
        written(file, b"after")
    except OSError:
        raised = True
    assert file.read_bytes() == kept
    assert raised is (kept == b"before")
    assert [one.name for one in tmp_path.iterdir()] == ["lock"]
