"""The file of keys: what is in it, who may read it, what happens when it changes or breaks; and use kept from run to run."""

import json
import stat
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.errors import UsageError
from headrace.gateway.accounts import Use
from headrace.key_store import KeysError, Store, Stored
from headrace.keys import Source, Uses, from_environment, this_month


def made(path: Path, name: str = "search", **limits) -> str:
    return Store(path).add(Stored(name, "", **limits))


def test_a_key_is_kept_as_its_hash_readable_by_its_owner_only(tmp_path):
    path = tmp_path / "keys.json"
    secret = made(path, rpm=600)
    assert len(secret) > 40
    assert secret not in path.read_text()
    assert secret not in (tmp_path / "keys.audit.jsonl").read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError):
        made(path)


def test_a_changed_file_is_taken_and_a_broken_one_told_of_once(tmp_path):
    path, said = tmp_path / "keys.json", []
    made(path)
    source = Source(f"file:{path}", {}, said.append)
    assert list(source.first().accounts) == ["search"]
    same = source.again()
    made(path, "batch")
    assert list(source.again().accounts) == ["search", "batch"]
    assert source.keys.accounts["search"] is same.accounts["search"], "counts stay"
    path.write_text("{")
    assert list(source.again().accounts) == list(source.again().accounts) == ["search", "batch"]
    assert sum("stay as they were" in line for line in said) == 1
    path.unlink()
    assert list(source.again().accounts) == ["search", "batch"], "a file that is gone revokes nobody by accident"


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'{"keys": [{"name": "a", "sha256": "xx"}]}',
        b'{"keys": [{"name": "a", "sha256": "' + b"0" * 64 + b'", "rmp": 1}]}',  # a limit misspelt would be none
        b'{"keys": [{"name": "a", "sha256": "' + b"0" * 64 + b'", "rpm": 0}]}',
        b'{"keys": [{"name": "a", "sha256": "' + b"0" * 64 + b'"}, {"name": "b", "sha256": "' + b"0" * 64 + b'"}]}',
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path, content):
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(KeysError):
        Store(tmp_path / "keys.json").keys()


def test_use_outlives_a_run_and_is_shared_between_gateways(tmp_path):
    path = tmp_path / "keys.json"
    made(path)
    one, two = Source(f"file:{path}", {}, print), Source(f"file:{path}", {}, print)
    for source, tokens in ((one, 10), (two, 5)):
        account = source.first().accounts["search"]
        account.use = Use(account.use.requests + 1, account.use.tokens_in + tokens, 0)
        source.save()
    one.save()
    assert one.keys.accounts["search"].use == two.keys.accounts["search"].use == Use(2, 15, 0)
    assert Source(f"file:{path}", {}, print).first().accounts["search"].use == Use(2, 15, 0)
    assert Uses(path).read("1999-01") == {}
    assert Uses(path).read(this_month())["search"] == Use(2, 15, 0)


def test_keys_in_the_environment():
    keys = from_environment("K", {"K": "search=abcdefghijklmnop, admin=ponmlkjihgfedcba ,qrstuvwxyzabcdef"})
    assert [(key.name, key.admin) for key in keys] == [("search", False), ("admin", True), ("key-3", False)]
    for wrong in ("", "short", "a=abcdefghijklmnop,a=ponmlkjihgfedcba", "abcdefgh ijklmnop"):
        with pytest.raises(KeysError) as refused:
            from_environment("K", {"K": wrong})
        assert not wrong or wrong not in str(refused.value), "keys stand in no message"


def test_the_command_makes_lists_and_revokes(tmp_path, capsys):
    file = ["--file", str(tmp_path / "keys.json")]
    assert main(["key", "add", "--name", "search", "--models", "chat,embed", "--tpm", "200k", "--priority", "batch", *file]) == 0
    secret = capsys.readouterr().out.strip()
    assert main(["key", "list", "--json", *file]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["models"], listed["tpm"], listed["priority"]) == (
        "search",
        ["chat", "embed"],
        200_000,
        "batch",
    )
    assert "sha256" not in listed
    assert main(["key", "revoke", "nobody", *file]) == 64
    assert main(["key", "revoke", "search", *file]) == 0
    assert Store(tmp_path / "keys.json").keys() == []
    audit = [json.loads(line) for line in (tmp_path / "keys.audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["key"]) for line in audit] == [("add", "search"), ("revoke", "search")]
    assert secret not in capsys.readouterr().out
