"""Private folders of Triton: nobody else's business, and swept when nobody holds them."""

import contextlib
import tempfile
import uuid
from pathlib import Path

import pytest

from headrace.runners import triton_folder
from headrace.runners.triton_folder import PREFIX, Folder, sweep


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where folders are made, and shared memory that is only the test's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(triton_folder, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(triton_folder, "_LONGEST_SOCKET_PATH", 1000)
    return tmp_path


def region(folder: Path, place: Path) -> Path:
    found = place / "shm" / f"{folder.name}-{uuid.uuid4()}"
    found.write_bytes(b"0")
    return found


def test_only_its_owner_can_enter_and_it_goes_with_its_shared_memory(place):
    folder = Folder()
    mine, other = region(folder.path, place), region(Path(f"{PREFIX}other"), place)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.remove()
    assert (folder.path.exists(), mine.exists(), other.exists()) == (False, False, True)


def test_what_is_in_use_is_not_swept(place):
    folder = Folder()
    held = region(folder.path, place)
    sweep(place)
    assert folder.path.exists()
    assert held.exists()
    folder.remove()


def test_what_was_left_behind_is_swept_with_its_shared_memory(place):
    left = place / f"{PREFIX}left"
    (left / "repository").mkdir(parents=True)
    regions = [region(left, place), region(left, place)]
    Folder().remove()
    assert not left.exists()
    assert not any(each.exists() for each in regions)


def test_what_others_put_there_is_no_trap(place):
    (place / f"{PREFIX}file").write_text("no folder")
    precious = place / "precious"
    precious.mkdir()
    (place / f"{PREFIX}link").symlink_to(precious)
    sweep(place)
    assert precious.exists()
    assert (place / f"{PREFIX}file").exists()


def test_a_model_is_written_with_the_code_that_serves_it():
    with contextlib.closing(Closing(Folder())) as held:
        folder = held.folder
        folder.package()
        folder.write_model("fraud", "backend: …", "from triton_models.infer import TritonPythonModel\n")
        model = folder.repository / "fraud"
        assert (model / "config.pbtxt").read_text("utf-8") == "backend: …"
        assert (model / "1" / "model.py").exists()
        assert (model / "1" / "triton_models" / "infer.py").exists()


def test_a_repository_is_mirrored_so_that_nothing_is_written_into_it(tmp_path):
    theirs = tmp_path / "theirs"
    (theirs / "m" / "1" / "__pycache__").mkdir(parents=True)
    (theirs / "m" / "1" / "model.py").write_text("x = 1")
    (theirs / "m" / "gone").symlink_to(tmp_path / "nowhere")
    with contextlib.closing(Closing(Folder())) as held:
        held.folder.mirror(theirs)
        version = held.folder.repository / "m" / "1"
        assert (version / "model.py").resolve() == theirs / "m" / "1" / "model.py"
        assert not version.is_symlink()
        assert [each.name for each in version.iterdir()] == ["model.py"]
    assert (theirs / "m" / "1" / "model.py").exists()


class Closing:
    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def close(self) -> None:
        self.folder.remove()


def test_a_wheel_without_a_process_for_this_python_is_an_error_that_names_it(tmp_path):
    with contextlib.closing(Closing(Folder())) as held, pytest.raises(FileNotFoundError, match="libtriton_python"):
        held.folder.backend(str(tmp_path), "3.11")
