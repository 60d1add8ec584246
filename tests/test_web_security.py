"""What strangers get of the page's server: nothing. One server, asked over plain sockets, so that nothing tidies a request."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from web_browser import ROOT as SOURCE
from web_browser import PageServer

from customize.errors import InputError
from customize.web.access import Access, check_password, key_of

ROOT = str(SOURCE)
SECRET = "the content of a file that is nobody's business"


@pytest.fixture(scope="module")
def asked(page_server):
    """A function that asks the server, with its cookie unless told otherwise, and returns (status, headers, body)."""
    folder = page_server.folder
    (folder.parent / "secret.png").write_text(SECRET)
    (folder / "secret.txt").write_text(SECRET)
    (folder / "runs/one").mkdir(parents=True)
    (folder / "runs/one/config.toml").write_text("[model]\n")
    (folder / "runs/one/report.html").write_text("<script>alert(1)</script>")
    (folder / "runs/one/picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>')
    (folder / "runs/one/page.png").write_text("<!doctype html><script>alert(1)</script>")
    (folder / "runs/one/.lock").write_text("1")
    (folder / "runs/one/link.png").symlink_to(folder.parent / "secret.png")
    os.symlink("/etc", folder / "runs/etc")
    port = int(page_server.address.rsplit(":", 1)[1].rstrip("/"))

    def ask(path: str, method: str = "GET", body: bytes | None = None, cookie: bool = True, **headers: str):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        given = {"Host": f"127.0.0.1:{port}", **({"Cookie": ask.cookie} if cookie else {})}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        given |= {"Content-Length": str(len(body))} if body is not None and "Content-Length" not in given else {}
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        found = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        connection.close()
        return found

    ask.cookie = ""
    status, headers, _ = ask(f"/?key={page_server.key}", cookie=False)
    assert status == 200 and "location" not in headers
    ask.cookie, ask.port = headers["set-cookie"].partition(";")[0], port
    return ask


OUTSIDE = [
    "/etc/passwd",
    "../secret.txt",
    "runs/../secret.txt",
    "runs/..%2fsecret.txt",
    "runs/%2e%2e/secret.txt",
    "..%2f..%2fsecret.png",
    "runs/one/../../../secret.png",
    "runs/one/link.png",
    "runs/etc/passwd",
    "runs//etc/passwd",
    "runs/%2fetc%2fpasswd",
    "runs/..\\..\\secret.txt",
    "runs/one%00.png",
    "runs/one/.lock",
    "runs/one",
    "runs/",
    "",
    ".web-key",
    "runs/%252e%252e/secret.txt",
    "photos/....//secret.txt",
    "file:///etc/passwd",
    "C:%5CWindows%5Cwin.ini",
    "secret.txt",
    "jobs/../secret.txt",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_path_leads_out_of_the_folders_that_are_served(asked, name):
    status, _, body = asked(f"/files/{name}")
    assert status in (400, 404) and SECRET.encode() not in body and b"root:" not in body, body[:200]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../secret.txt",
        "/gradio_api/file=runs/one/config.toml",
        "/gradio_api/file=%2fetc%2fpasswd",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/file=//127.0.0.1:1/x",
        "/gradio_api/file=https%3A%2F%2Fexample.com/x.png",
        "/gradio_api/file=/proc/self/environ",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/stream/a/1/1/playlist.m3u8",
        "/gradio_api/vibe-code",
        "/gradio_api/dev/reload",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/gradio_api/custom_component/../../x",
        "/gradio_api/deep_link?session_hash=x",
        "//example.com/%2e%2e",
        "/static/../../routes.py",
        "/static/%2e%2e/%2e%2e/%2e%2e/routes.py",
        "/assets/..%2f..%2f..%2froutes.py",
        "/gradio_api/run/predict",
        "/gradio_api/call/x",
    ],
)
def test_addresses_that_the_page_does_not_need_are_not_there(asked, path):
    status, headers, body = asked(path)
    assert status in (400, 403, 404, 405) and "location" not in headers, (status, headers)
    assert b"root:" not in body and b"import" not in body and b"Traceback" not in body


@pytest.mark.parametrize(
    "path", ["/", "/runs", "/config", "/files/runs/one/report.html", "/gradio_api/info", "/gradio_api/queue/data"]
)
def test_without_the_key_there_is_only_a_form(asked, path):
    for cookie in ("", "customize_1=x", f"customize_{asked.port}=", f"customize_{asked.port}={'0' * 48}"):
        status, headers, body = asked(path, cookie=False, Cookie=cookie)
        assert status == 401 and b"<form" in body and b"gradio" not in body.lower() and "set-cookie" not in headers
    status, headers, _ = asked("/?key=wrong", cookie=False)
    assert status == 401 and "set-cookie" not in headers
    status, headers, _ = asked("/login", "POST", b"key=wrong", cookie=False)
    assert status == 401 and "set-cookie" not in headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Host": "a b"},
        {"Host": "["},
        {"Host": "[127.0.0.1]x"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1:x"},
        {"Host": "[::2]"},
        {"Host": "192.0.2.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
    ],
)
def test_other_hosts_and_pages_of_others_are_refused(asked, headers):
    for method, path in (("GET", "/"), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload"), ("GET", "/config")):
        status, _, body = asked(path, method, b"{}" if method == "POST" else None, **headers)
        assert status in (403, 421) and b"gradio" not in body


def test_a_page_of_another_may_link_here_and_see_nothing(asked):
    status, headers, _ = asked("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert status == 200 and headers["x-frame-options"] == "SAMEORIGIN" and headers["cross-origin-opener-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control")]


def test_methods_and_lengths_that_make_no_sense_are_refused(asked):
    for method in ("PUT", "DELETE", "TRACE", "OPTIONS", "PATCH"):
        assert asked("/", method)[0] == 405
    assert asked("/gradio_api/queue/join", "POST", b"", Content_Length="-1")[0] == 400
    assert asked("/gradio_api/queue/join", "POST", b"", Content_Length=str(17 << 20))[0] == 413
    assert asked("/gradio_api/upload", "POST", b"", Content_Length=str(2 << 30))[0] == 413


def test_a_request_names_no_file_that_was_not_uploaded(asked, page_server):
    """Every function of the pages that takes a file, and one that returns its text, is given a file of the machine."""
    _, _, body = asked("/config")
    functions = [each["id"] for each in json.loads(body)["dependencies"] if each["targets"] and each["backend_fn"]]
    assert len(functions) > 20
    payload = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    for number in functions[:80]:
        data = {"data": [payload] * 8, "fn_index": number, "session_hash": "s", "event_data": None, "trigger_id": None}
        asked("/gradio_api/queue/join", "POST", json.dumps(data).encode(), Content_Type="application/json")
    uploads, end = Path(page_server.environment["TMPDIR"]), time.monotonic() + 2
    while time.monotonic() < end:
        assert [*uploads.rglob("hostname")] == [] and [*uploads.glob("customize-web-*")]
        time.sleep(0.1)


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:1/x.png", "https://a.example/x", " HTTP://a/x", "//a/x", "ftp://a/x", "file:///etc/x"]
)
def test_nothing_is_fetched_for_a_request(asked, path):
    for data in ([{"path": path}], [[{"image": {"path": path, "meta": {"_type": "gradio.FileData"}}}]]):
        body = json.dumps({"data": data, "fn_index": 1, "session_hash": "s"}).replace("http", "\\u0068ttp").encode()
        assert asked("/gradio_api/queue/join", "POST", body, Content_Type="application/json")[0] == 403
    assert asked("/gradio_api/queue/join", "POST", b"{", Content_Type="application/json")[0] == 403


def test_a_ticket_opens_the_page_once():
    access = Access("s" * 24, 1)
    ticket = access.ticket()
    assert not access.opens("") and access.opens(ticket) and not access.opens(ticket) and access.opens("s" * 24)


def test_files_of_runs_run_nothing(asked):
    status, headers, body = asked("/files/runs/one/report.html")
    assert status == 200 and headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert re.match(r"sandbox allow-scripts; default-src 'none'; ", policy) and "allow-same-origin" not in policy
    for name in ("picture.svg", "page.png", "config.toml"):
        status, headers, _ = asked(f"/files/runs/one/{name}")
        assert status == 200 and headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith("attachment") and headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_the_server_never_imports_torch(page_server):
    maps = Path(f"/proc/{page_server.process.pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert "libtorch" not in maps.read_text()


def test_the_form_takes_the_key_and_a_link_keeps_where_it_leads(asked, page_server):
    status, headers, body = asked("/login", "POST", f"key={page_server.key}".encode(), cookie=False)
    assert status == 200 and headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict") and b'url=/"' in body
    status, headers, body = asked(f"/runs?run=a%22%3E%3Cscript%3E&key={page_server.key}", cookie=False)
    assert status == 200 and b"<script" not in body and b'0;url=/runs?run=a%22%3E%3Cscript%3E"' in body


@pytest.mark.parametrize(
    "password", ["", "12345678", "password", "aaaaaaaaaaaaaa", "123456789012345", "abcdefghijklmno", "abababababababab"]
)
def test_listening_needs_a_password_that_is_not_guessed(password, tmp_path):
    words = [sys.executable, "-m", "customize", "web", str(tmp_path), "--listen"]
    with pytest.raises(InputError):
        check_password(password)
    if not password:
        done = subprocess.run(
            words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": ROOT}
        )
        assert done.returncode == 2 and "--listen: needs a password" in done.stderr and not [*tmp_path.iterdir()]


def test_no_file_of_the_workspace_says_its_key(tmp_path):
    prepared = "a-key-that-the-maker-of-the-folder-knows"
    (tmp_path / ".web-key").write_text(prepared)
    (tmp_path / ".web-key").chmod(0o600)
    os.symlink(tmp_path, link := tmp_path / "link")
    assert key_of(tmp_path) == key_of(link) and len(key_of(tmp_path)) == 32 and prepared not in key_of(tmp_path)
    assert key_of(tmp_path) != key_of(tmp_path / "other"), "a key opens one page"
    assert [path.name for path in tmp_path.iterdir() if path != link] == [".web-key"]


@pytest.mark.slow
def test_a_server_that_is_terminated_leaves_no_uploads(tmp_path):
    server = PageServer(tmp_path, TMPDIR=str(tmp_path))
    assert [*tmp_path.glob("customize-web-*")]
    server.process.terminate()
    server.process.wait(20)
    assert not [*tmp_path.glob("customize-web-*")]
