"""The documents say what is there: the tree, the links, the commands and keys they name; and the tree is clean."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from headrace.cli import commands, parser
from headrace.spec.addresses import LISTEN
from headrace.spec.load import loads
from headrace.weights.source import parse

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "headrace"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])

OTHER_PORTS = {
    "4318": "an OpenTelemetry collector",
    "6379": "Redis",
    "8001": "kubectl proxy",
    "9001": "an engine that runs already",
    "9002": "another one",
    "9090": "Prometheus",
}
"""What listens on this machine in the pages, beside the gateway."""


def tree_in_docs() -> dict[str, bool]:
    """What docs/architecture.md names below src/headrace, folders with a slash at the end; True for what it marks as deciding."""
    block = re.search(r"```\nsrc/headrace/\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
    assert block
    folders: list[str] = []
    found: dict[str, bool] = {}
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        name, *rest = line.split()
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
            found["".join(folders)] = "●" in rest[:1]
        else:
            found["".join(folders) + name] = "●" in rest[:1]
    return found


def test_the_tree_in_the_architecture_page_is_the_tree() -> None:
    there = {str(file.relative_to(SOURCE)) for kind in ("*.py", "*.yaml") for file in SOURCE.rglob(kind)}
    named = {name for name in tree_in_docs() if not name.endswith("/")}
    assert named == {name for name in there if not name.endswith("__init__.py")}


def test_what_the_architecture_page_calls_deciding_is_under_the_contract() -> None:
    """Every file or folder marked ● is in the import-linter contract that forbids touching the world, and no other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    pure = next(contract for contract in contracts if contract["name"] == "What decides touches nothing")["source_modules"]
    marked = {
        "headrace." + name.removesuffix(".py").rstrip("/").replace("/", ".")
        for name, decides in tree_in_docs().items()
        if decides
    }
    assert marked == set(pure)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_specs_in_the_pages_are_valid(page: Path) -> None:
    for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        if "models:" in text:
            loads(text, str(page), parse)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_pages_exist(page: Path) -> None:
    known = commands(parser())
    for name in re.findall(
        r"`?headrace ([a-z]+)\b", "\n".join(re.findall(r"```sh\n.*?```|`headrace [^`]+`", page.read_text(), re.DOTALL))
    ):
        assert name in known, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_addresses_in_the_pages_are_the_gateways_or_another_servers(page: Path) -> None:
    for address in re.findall(r"\b(?:127\.0\.0\.1|localhost):[0-9]+", page.read_text()):
        assert address.partition(":")[2] in {LISTEN.partition(":")[2], *OTHER_PORTS}, address


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda script: script.name)
def test_what_benchmarks_take_from_headrace_is_there(script: Path) -> None:
    """They run by hand and rarely: a module that moved would be found by nobody."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headrace"):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}"), name.name


def test_tests_named_in_the_behaviour_page_exist() -> None:
    for name in re.findall(r"`((?:unit|e2e|contract)/[^`]+)`", (ROOT / "docs" / "behaviour.md").read_text()):
        assert (ROOT / "tests" / name).exists(), name


def test_statuses_in_the_behaviour_page_are_those_of_the_code() -> None:
    """Statuses that the code gives are told to users; 501 (transfer codings) and 500 (our bugs) are told in prose."""
    code = "\n".join(file.read_text() for file in (SOURCE / "gateway").glob("*.py"))
    given = set(re.findall(r"Refusal\(\s*(\d{3})", code)) - {"500", "501"}
    told = set(re.findall(r"\b[45]\d\d\b", (ROOT / "docs" / "behaviour.md").read_text()))
    assert given <= told


def test_help_is_instant() -> None:
    """No heavy import on the way to --help: the modules are what costs, and they can be counted on a noisy machine."""
    code = "import sys; from headrace.cli import parser; parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "pydantic",
        "asyncio",
        "starlette",
        "uvloop",
        "msgspec",
        "yaml",
        "prometheus_client",
        "huggingface_hub",
        "numpy",
        "urllib.request",
    }
    assert heavy.isdisjoint(loaded)


def test_no_file_is_long_and_none_is_left_unfinished() -> None:
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        assert text.count("\n") <= 350, file
        assert not re.search(r"\b(TODO|FIXME|XXX|raise NotImplementedError)\b", text), file


def test_generated_pages_are_fresh() -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "reference.py"), "--check"], check=True, timeout=60)
