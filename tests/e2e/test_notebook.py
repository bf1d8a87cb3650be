"""docs/notebook.md in a real Jupyter kernel, over a real `headrace serve` in front of a fake engine."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.key_store import Store, Stored
from tests.e2e.conftest import Served
from tests.fake_process import fake_engine

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "notebook.md").read_text("utf-8")
CELLS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Jupyter's own packages
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def engine() -> Iterator[str]:
    with fake_engine("--slots", "4", "--tokens", "8") as address:
        yield address


def test_every_cell_of_the_page_runs_and_shows_what_it_should(
    serve: Callable[..., Served], engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = Store(tmp_path / "keys.json").add(Stored("ops", "", admin=True))
    served = serve(yaml=f"models: {{chat: {{url: '{engine}', slots: 4}}}}\ngateway: {{keys: 'file:keys.json'}}\n")
    monkeypatch.setenv("HEADRACE_URL", served.url)
    monkeypatch.setenv("HEADRACE_KEY", secret)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    served.wait_for("chat is ready")
    rows = "".join(f"{at},200,40\n" for at in range(120))
    (tmp_path / "trace.csv").write_text("timestamp,input_tokens,output_tokens\n" + rows)
    inside = "import asyncio\nassert asyncio.get_running_loop(), 'as cells always are'"
    cells = [nbformat.v4.new_code_cell(cell) for cell in (inside, *CELLS)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [_shown(cell) for cell in notebook.cells[1:]]
    assert len(shown) == len(CELLS) >= 9
    assert "<table>" in shown[0]
    assert "As text" in shown[0]
    assert "A100-80GB" in shown[1]
    assert "image/png" in shown[2]
    assert "other" in shown[3]
    assert "ready" in shown[4]
    assert "2 at once" in shown[6]
    assert "fixed:2" in shown[7]
    assert "image/png" in shown[8]
    assert "meets" in shown[9]
    assert "soon" in shown[10]


def _shown(cell: object) -> str:
    return "\n".join(str(output) for output in cell.outputs)  # type: ignore[attr-defined]
