"""The private folder of one running Triton: its backend, its model repository, its control socket; and what others left.

Shared memory of the python backend is named after the folder, so that what a killed Triton left can be told from what
another one uses.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "headrace-triton-"
SHARED_MEMORY = Path("/dev/shm")
MODELS = Path(__file__).parent / "triton_models"
_LONGEST_SOCKET_PATH = 90  # of 108 that Linux allows, less what tritonserver adds


class Folder:
    """A folder that only we can enter, in use until `remove`."""

    def __init__(self) -> None:
        place = tempfile.gettempdir()
        if len(place) + len(PREFIX) + 20 > _LONGEST_SOCKET_PATH:
            place = "/tmp"
        sweep(Path(place))
        self.path, self._lock = _locked(Path(place))
        for name in ("backend/python", "repository", "tmp"):
            (self.path / name).mkdir(parents=True)

    @property
    def name(self) -> str:
        """Its last part, which shared memory's names begin with."""
        return self.path.name

    @property
    def repository(self) -> Path:
        """Where models are that we write."""
        return self.path / "repository"

    def backend(self, packages: str, version: str) -> Path:
        """The folder of backends, with the python backend of the wheel in `packages` for that version of Python.

        The wheel keeps the backend and its programs apart, and Triton wants them together. Raises FileNotFoundError when it
        has no program for the version.
        """
        server = Path(packages) / "pytriton" / "tritonserver"
        for source in (
            server / "backends" / "python" / "libtriton_python.so",
            server / "backends" / "python" / "triton_python_backend_utils.py",
            server / "python_backend_stubs" / version / "triton_python_backend_stub",
        ):
            if not source.exists():
                raise FileNotFoundError(source)
            (self.path / "backend" / "python" / source.name).symlink_to(source)
        return self.path / "backend"

    def package(self) -> Path:
        """A folder in which our models can be imported as `triton_models`, and nothing else of Headrace."""
        shutil.copytree(MODELS, self.path / "package" / MODELS.name, ignore=shutil.ignore_patterns("__pycache__"))
        return self.path / "package"

    def write_model(self, name: str, config: str, model: str) -> None:
        """A model of ours in the repository; `model` is the text of its `model.py`."""
        version = self.repository / name / "1"
        version.mkdir(parents=True)
        (self.repository / name / "config.pbtxt").write_text(config, "utf-8")
        (version / "model.py").write_text(model, "utf-8")
        (version / MODELS.name).symlink_to(self.path / "package" / MODELS.name)

    def mirror(self, repository: Path) -> None:
        """The user's repository as ours: its folders made anew, its files by reference. Python writes what it compiles beside a
        model's code, whatever its environment says, and that is not our place to write. Raises OSError.
        """
        shutil.copytree(
            repository.resolve(),
            self.repository,
            copy_function=os.symlink,
            ignore=shutil.ignore_patterns("__pycache__"),
            ignore_dangling_symlinks=True,
            dirs_exist_ok=True,
        )

    def remove(self) -> None:
        """Remove it with its shared memory. Nothing may run that uses it."""
        _remove(self.path)
        os.close(self._lock)


def models(repository: Path) -> list[str]:
    """The names of what is in a model repository."""
    return sorted(each.name for each in repository.iterdir() if each.is_dir() and not each.name.startswith((".", "_")))


def sweep(place: Path) -> None:
    """Remove what was left behind in `place`: folders of ours that nobody holds. Anybody may put something else there."""
    for folder in place.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
        except OSError:  # in use
            continue
        finally:
            os.close(lock)


def _locked(place: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds it. It gets its name when it is held: `sweep` never finds it free. No child
    gets the descriptor.
    """
    new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=place))
    lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return new.rename(place / new.name.removeprefix(".")), lock


def _remove(folder: Path) -> None:
    for region in SHARED_MEMORY.glob(f"{folder.name}-*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
