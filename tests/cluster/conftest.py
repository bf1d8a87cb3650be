"""One control plane for all tests here; each has a namespace of its own in it. Without one they are skipped, and say why."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, absent, control_plane, unique
from older import talk_older
from user import User


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    if why := absent():
        pytest.skip(why)
    with control_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objects as the old API server has them (control_plane.downlevel)."""
    talk_older(monkeypatch.setattr)


@pytest.fixture
def user(
    plane: ControlPlane, old: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[User]:
    """Somebody in a folder of their own who types commands, with a namespace of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    made = User(plane, unique("t"), tmp_path, capsys)
    made.write()
    yield made
    made.clean()


@pytest.fixture
def until() -> Callable[..., Any]:
    """Waits until a question has an answer that is true, and gives it; fails when that takes too long."""

    def wait(ask: Callable[[], Any], seconds: float = 120.0) -> Any:
        end = time.monotonic() + seconds
        while not (answer := ask()):
            if time.monotonic() > end:
                pytest.fail("it never came to be")
            time.sleep(0.2)
        return answer

    return wait
