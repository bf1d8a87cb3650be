"""One file into the cache: resumed, verified, refused with numbers."""

import hashlib
import os
import re
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from small_files import gguf

from headrace.errors import ModelError, WeightsError
from headrace.testing.hub import FakeHub
from headrace.units import show_bytes
from headrace.weights.client import Client, _Redirects, shown, without_login
from headrace.weights.download import Downloader, Item
from headrace.weights.source import parse
from headrace.weights.store import Store

DATA = os.urandom(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "cache"))


@pytest.fixture
def downloader(store, pauses):
    return Downloader(store, Client({}), "owner", pauses.append)


@pytest.fixture
def url(hub):
    hub.files["/m.gguf"] = ("application/octet-stream", DATA)
    return f"{hub.url}/m.gguf"


@pytest.fixture
def old_server():
    """(its URL, what it answers request by request): HTTP/1.0, where the end of the connection is the end of the file."""
    answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/m.gguf", answers
        server.shutdown()
        thread.join()


def item(url, **known):
    return Item("m.gguf", url, **{"size": len(DATA), "sha256": SHA, **known})


def ignore(progress):
    """Progress that nobody looks at."""


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_a_download_reports_its_progress_and_what_came(downloader, url):
    seen = []
    path, file = downloader.fetch(item(url), seen.append)
    assert content(path) == DATA
    assert (file.size, file.sha256) == (len(DATA), SHA)
    assert {(progress.what, progress.total_bytes) for progress in seen} == {("m.gguf", len(DATA))}
    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert len(done) > 3
    assert done[-1] == len(DATA)


def test_a_cut_connection_is_resumed_at_the_byte_where_it_was_cut(downloader, url, hub):
    hub.cut_after = 1_500_000
    path, _ = downloader.fetch(item(url), ignore)
    assert content(path) == DATA
    assert [headers.get("range") for _, _, headers in hub.requests] == [None, "bytes=1500000-"]


def test_an_empty_file_is_a_file(downloader, hub):
    hub.files["/merges.txt"] = ("text/plain", b"")
    empty = Item("merges.txt", f"{hub.url}/merges.txt", 0, git_sha1=hashlib.sha1(b"blob 0\0").hexdigest())
    path, file = downloader.fetch(empty, ignore)
    assert content(path) == b""
    assert (file.size, file.sha256) == (0, hashlib.sha256().hexdigest())


def test_a_cut_answer_that_does_not_say_its_length_is_resumed_when_the_size_is_known(downloader, old_server):
    url, answers = old_server
    answers += [(200, {}, DATA[:1000]), (206, {"Content-Range": f"bytes 1000-{len(DATA) - 1}/*"}, DATA[1000:])]
    path, _ = downloader.fetch(item(url), ignore)
    assert content(path) == DATA


def test_a_range_without_the_whole_size_is_complete_at_its_last_byte(downloader, old_server):
    url, answers = old_server
    last, tag = len(DATA) - 1, {"ETag": '"1"'}
    answers += [
        (200, {**tag, "Content-Length": str(len(DATA))}, DATA[:1000]),
        (206, {**tag, "Content-Range": f"bytes 1000-{last}/*"}, DATA[1000:2000]),  # cut
        (206, {**tag, "Content-Range": f"bytes 2000-{last}/*"}, DATA[2000:]),
    ]
    path, _ = downloader.fetch(item(url, size=None, sha256=None), ignore)
    assert content(path) == DATA


def test_a_model_that_came_cut_and_nobody_says_its_size_is_not_kept(cache, old_server):
    url, answers = old_server
    model = gguf(padding=1000)
    answers += [(200, {}, model[:-1]), (200, {}, model)]
    with pytest.raises(ModelError, match=f"is cut off: its header describes {len(model)} bytes, it has {len(model) - 1}"):
        cache.fetch(parse(url), ignore)
    assert cache.fetch(parse(url), ignore).bytes == len(model)


def test_what_another_run_left_is_resumed(store, url, hub):
    """The first run gives up while the server is broken; the second one, later, asks for the rest only."""
    hub.cut_after, failing = 2_000_000, Downloader(store, Client({}), "owner", lambda _: hub.failures.append(503))
    with pytest.raises(WeightsError, match="503"):
        failing.fetch(item(url), ignore)
    hub.failures.clear()
    hub.requests.clear()
    path, _ = Downloader(store, Client({}), "owner").fetch(item(url), ignore)
    assert content(path) == DATA
    assert [headers.get("range") for _, _, headers in hub.requests] == ["bytes=2000000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(downloader, url, hub):
    """Nothing says what the bytes must be, so only the very same version may be continued (If-Range)."""
    new, hub.cut_after = DATA[::-1], 1_000_000
    downloader._pause = lambda _: hub.files.update({"/m.gguf": ("", new)})
    path, _ = downloader.fetch(item(url, size=None, sha256=None), ignore)
    assert content(path) == new


def test_a_server_without_ranges_sends_the_whole_file_again(downloader, url, hub):
    hub.ranges, hub.cut_after = False, 1_000_000
    path, _ = downloader.fetch(item(url), ignore)
    assert content(path) == DATA


def test_a_wrong_hash_says_both_hashes_and_keeps_nothing(downloader, store, url):
    wrong = "0" * 64
    with pytest.raises(WeightsError, match=f"has the sha256 {SHA} where {wrong} was expected"):
        downloader.fetch(item(url, sha256=wrong), ignore)
    assert not os.listdir(store.path("partial", "owner"))


def test_a_wrong_git_hash_is_noticed_too(downloader, url):
    right = hashlib.sha1(f"blob {len(DATA)}\0".encode() + DATA).hexdigest()
    downloader.fetch(item(url, sha256=None, git_sha1=right), ignore)
    with pytest.raises(WeightsError, match="has the git hash"):
        downloader.fetch(item(url, sha256=None, git_sha1="0" * 40), ignore)


def test_a_wrong_size_is_refused_before_the_bytes_come(downloader, url):
    with pytest.raises(WeightsError, match=f"is {len(DATA)} bytes long where 7 were expected"):
        downloader.fetch(item(url, size=7), ignore)


def test_a_damaged_old_part_is_dropped_and_the_file_fetched_anew(downloader, store, url, hub):
    partial = store.partial("owner", SHA + ".part")
    os.makedirs(os.path.dirname(partial))
    with open(partial, "wb") as file:
        file.write(b"\0" * 1000)  # zeros, as a crash of the machine leaves them
    path, _ = downloader.fetch(item(url), ignore)
    assert content(path) == DATA
    assert [headers.get("range") for _, _, headers in hub.requests] == ["bytes=1000-", None]


def test_too_little_disk_is_said_with_numbers_before_the_download(tmp_path, url):
    small = Store(str(tmp_path), free=lambda path: 1_000_000)
    need, have = show_bytes(len(DATA)), show_bytes(1_000_000)
    reason = f"m.gguf needs {need} of disk space, and {have} are free at {tmp_path}"
    with pytest.raises(WeightsError, match=re.escape(reason)):
        Downloader(small, Client({}), "owner").fetch(item(url), ignore)


def test_a_disk_that_fills_up_midway_keeps_nothing(downloader, store, url):
    partial = store.partial("owner", SHA + ".part")
    os.makedirs(os.path.dirname(partial))
    os.symlink("/dev/full", partial)  # the kernel's own full disk
    with pytest.raises(WeightsError, match="The disk is full"):
        downloader.fetch(item(url), ignore)
    assert not os.listdir(store.path("partial", "owner"))


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "is not there (404)"), (401, "needs a login"), (403, "accepted on its web page"), (418, "HTTP 418")],
)
def test_a_refusal_is_explained_and_not_tried_again(downloader, url, hub, pauses, status, reason):
    hub.failures = [status]
    with pytest.raises(WeightsError, match=re.escape(reason)):
        downloader.fetch(item(url), ignore)
    assert not pauses


def test_a_busy_server_is_asked_again_with_growing_pauses(downloader, url, hub, pauses):
    hub.failures = [503, 429, 500]
    downloader.fetch(item(url), ignore)
    assert pauses == [1.0, 2.0, 4.0]


def test_a_server_that_stays_busy_is_given_up(downloader, url, hub, pauses):
    hub.failures = [503] * 5
    with pytest.raises(WeightsError, match="503"):
        downloader.fetch(item(url), ignore)
    assert len(pauses) == 4


def test_without_a_network_it_fails_at_once(downloader, hub, pauses):
    with pytest.raises(WeightsError, match="Check the network"):
        downloader.fetch(item("http://127.0.0.1:1/m.gguf"), ignore)
    assert not pauses


def test_plain_http_beyond_this_machine_is_refused():
    with pytest.raises(WeightsError, match="can be changed on its way"):
        Client({}).get("http://example.org/simple/x/", {})


def test_a_redirect_is_followed(downloader, hub, url):
    hub.redirects["/latest"] = url
    path, _ = downloader.fetch(item(f"{hub.url}/latest"), ignore)
    assert content(path) == DATA


def test_a_login_does_not_follow_a_redirect_to_another_host(downloader, hub, url):
    with FakeHub() as other:
        other.redirects["/m"] = url
        secret = f"{other.url}/m".replace("http://", "http://user:secret@")
        downloader.fetch(item(secret), ignore)
        assert "authorization" in other.requests[0][2]
    assert "authorization" not in hub.requests[0][2]


def test_a_redirect_away_from_tls_is_refused():
    request = urllib.request.Request("https://host/m")
    with pytest.raises(urllib.error.URLError, match="without TLS"):
        _Redirects().redirect_request(request, None, 302, "", {}, "http://host/m")


def test_a_login_in_a_url_is_sent_and_never_shown(downloader, hub, url):
    secret = url.replace("http://", "http://user:pass%20word@")
    downloader.fetch(item(secret), ignore)
    assert hub.requests[0][2]["authorization"] == "Basic dXNlcjpwYXNzIHdvcmQ="
    hub.failures = [404]
    with pytest.raises(WeightsError) as error:
        downloader.fetch(item(secret, sha256="1" * 64), ignore)
    assert "pass" not in str(error.value)


def test_the_query_of_a_signed_url_is_not_shown():
    assert shown("https://user:x@host/m.gguf?token=secret") == "https://host/m.gguf"
    assert without_login("https://host/m") == ("https://host/m", {})
