"""What every request passes before anything else sees it: host, origin, cookie, address and size.

An ASGI middleware. Gradio has many more addresses than the page uses (a proxy, a reader of addresses of other hosts, an assistant
that edits code); only those that a browser asks for here are let through.
"""

import asyncio
import html
import ipaddress
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit

from customize.web.access import Access

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

MIB = 1 << 20
LARGEST_FILE, LARGEST_UPLOAD, LARGEST_OTHER, MOST_FILES = 64 * MIB, 1024 * MIB, 16 * MIB, 2000
"""Bytes of one uploaded file, of one upload, and of any other request; files that lie in the folder of uploads at one time."""
LEAST_FREE = 2 << 30
"""Free bytes of the disk below which no upload is taken."""
ADDRESS = re.compile(r"\s*(\w+:)?//")
"""The start of an address of another host."""
ADDRESSES = (
    r"/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon(/\d+)?)?"
    r"|/(assets|static|svelte|files)/.+"
    r"|/gradio_api/(queue/(join|data)|upload|upload_progress|heartbeat/\w+|startup-events|reset|cancel|info|app_id|user)"
    r"|/gradio_api/file=/.+"
)
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "frame-src 'self'; frame-ancestors 'self'; object-src 'none'; base-uri 'self'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Sent with every answer: a browser then asks no other host for anything, and shows the page in no frame of another."""
SANDBOX = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Of an answer that is not ours: whatever it is, nothing in it runs."""
IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif")
FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>customize</title>
<style>body{{font:16px system-ui;margin:15vh auto;max-width:22rem;padding:0 1rem;background:Canvas;color:CanvasText;
color-scheme:light dark}}input,button{{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.4rem 0}}</style>
<main><h1>customize</h1><p>{words}</p><form method="post" action="/login"><label>{name}
<input type="password" name="key" autofocus autocomplete="current-password"></label><button>Open</button></form></main></html>"""


GO_ON = '<!doctype html><title>customize</title><meta http-equiv="refresh" content="0;url={}">'
"""Instead of a redirect, in which a browser that follows a link of another page would leave out the new cookie."""


class TooLarge(Exception):
    """A request has more bytes than allowed."""


class Guard:
    """access: None lets everybody in; hosts: names under which the server may be addressed, none for any, as a cookie decides;
    pages: addresses of the pages; uploads: the folder of uploaded files, the only one from which Gradio serves files.
    """

    def __init__(self, app: App, access: Access | None, hosts: Collection[str], pages: Collection[str], uploads: Path):
        self.app, self.access, self.hosts, self.uploads = app, access, hosts, uploads.resolve()
        self.addresses = re.compile("|".join([ADDRESSES, *(f"/{re.escape(page)}" for page in pages)]))
        self.failures: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if refused := self.refusal(scope, headers):
            return await answer(send, *refused)
        if self.access and not self.access.has_cookie(headers.get("cookie", "")):
            return await self.login(self.access, scope, headers, receive, send)
        limit = LARGEST_UPLOAD if scope["path"] == "/gradio_api/upload" else LARGEST_OTHER
        if int(headers.get("content-length", "0")) > limit:
            return await answer(send, 413, "too large")
        if limit == LARGEST_UPLOAD and self.is_full():
            return await answer(send, 507, "there is no room for uploads: restart the page, or free some of the disk")
        if scope["path"].rstrip("/") == "/gradio_api/queue/join":
            data = await body(receive, limit)
            if data is None or names_address(data):
                return await answer(send, 403, "a file of another host is not fetched")
            receive = again(data, receive)
        await self.passed(scope, limited(receive, limit), send)

    def is_full(self) -> bool:
        """Whether no more uploads are taken."""
        return sum(1 for _ in self.uploads.iterdir()) > MOST_FILES or shutil.disk_usage(self.uploads).free < LEAST_FREE

    def refusal(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, str] | None:
        """The status and the reason with which a request is refused, whoever it comes from."""
        host, origin, method = headers.get("host", ""), headers.get("origin"), scope["method"]
        if not self.is_host(host):
            return 421, "this host is not served here"
        if origin is not None and split(origin).netloc.lower() != host.lower():
            return 403, "requests of other pages are refused"
        site, opens = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode") == "navigate" and method == "GET"
        if site not in ("none", "same-origin") and not opens:
            return 403, "requests of other pages are refused"
        if method not in ("GET", "HEAD", "POST"):
            return 405, "this method is not served here"
        if not headers.get("content-length", "0").isdecimal():
            return 400, "the length is not a number"
        path = scope["path"]
        if path != "/login" and not self.addresses.fullmatch(path.rstrip("/") or "/"):
            return 404, "there is no such page"
        if path.startswith("/gradio_api/file=") and not self.is_upload(path.partition("=")[2]):
            return 403, "this file is not served"
        return None

    def is_host(self, host: str) -> bool:
        """Whether a Host header names this server: a page of another name that leads here has another one."""
        name = (split(f"//{host}").hostname or "") if re.fullmatch(r"[\w.:\[\]-]+", host, re.ASCII) else ""
        if not self.hosts:
            return bool(name)
        return name in self.hosts or (is_address(name) and ipaddress.ip_address(name).is_loopback)

    def is_upload(self, path: str) -> bool:
        """Whether a file lies in the folder of uploads."""
        try:
            return "\0" not in path and Path(path).resolve().is_relative_to(self.uploads)
        except (OSError, ValueError):
            return False

    async def login(
        self, access: Access, scope: Mapping[str, Any], headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        """Lets in whoever has the key, in the address or in the form; others get the form."""
        query = scope["query_string"].decode("latin-1")
        given = parse_qs(query).get("key", [""])[0]
        if scope["path"] == "/login" and scope["method"] == "POST":
            given = parse_qs((await body(receive, 10_000) or b"").decode("latin-1")).get("key", [""])[0]
        if given:
            client = (scope.get("client") or ("",))[0]
            async with self.failures[client]:  # the guesses of one address wait for each other
                if access.opens(given):
                    others = urlencode([(name, text) for name, text in parse_qsl(query) if name != "key"])
                    goal = (scope["path"] if scope["path"] != "/login" else "/") + (f"?{others}" if others else "")
                    headers = {"set-cookie": access.set_cookie(), "content-type": "text/html; charset=utf-8"}
                    return await answer(send, 200, GO_ON.format(html.escape(goal)), headers)
                await asyncio.sleep(0.5 if access.by_password else 0.0)
        name = "Password" if access.by_password else "Key"
        words = "Type the password of this page." if access.by_password else (
            "This page belongs to the user who started it. Open the address that customize web printed, or type its key."
        )  # fmt: skip
        text = FORM.format(words=html.escape(words), name=name)
        await answer(send, 401, text, {"content-type": "text/html; charset=utf-8"})

    async def passed(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Hands the request on; the answer gets our headers, and no file of others is shown as a page."""
        begun = False

        async def sent(message: dict[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": safe_headers(scope["path"], message.get("headers", []))}
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except TooLarge:
            if not begun:
                await answer(send, 413, "too large")


def safe_headers(path: str, headers: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, with ours where it has none of its own; files that Gradio serves are pictures or downloads."""
    own = {name.lower(): value for name, value in headers}
    ours = dict(HEADERS)
    if path.startswith("/gradio_api/file=") and own.get(b"content-type", b"").decode("latin-1").split(";")[0] not in IMAGES:
        ours["content-security-policy"] = SANDBOX
        own |= {b"content-disposition": b"attachment", b"content-type": b"application/octet-stream"}
        headers = [(name, own.get(name.lower(), value)) for name, value in headers if name.lower() != b"content-disposition"]
        headers = [*headers, (b"content-disposition", b"attachment")]
    dropped = (b"server", b"access-control-allow-origin", b"access-control-allow-credentials")
    kept = [(name, value) for name, value in headers if name.lower() not in dropped]
    return kept + [(name.encode(), value.encode()) for name, value in ours.items() if name.encode() not in own]


def limited(receive: Receive, limit: int) -> Receive:
    """The same messages; raises TooLarge after `limit` bytes."""
    received = 0

    async def next_message() -> dict[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise TooLarge
        return message

    return next_message


async def body(receive: Receive, most: int) -> bytes | None:
    """The body of a request; None if it is longer than `most` bytes, or the client is gone."""
    found, more = b"", True
    while more:
        message = await receive()
        found, more = found + message.get("body", b""), message.get("more_body", False)
        if len(found) > most or message["type"] == "http.disconnect":
            return None
    return found


def again(data: bytes, receive: Receive) -> Receive:
    """The messages of a request whose body was read."""
    waiting = [{"type": "http.request", "body": data, "more_body": False}]

    async def next_message() -> dict[str, Any]:
        return waiting.pop() if waiting else await receive()

    return next_message


def names_address(data: bytes) -> bool:
    """Whether a request has a file that Gradio would fetch from another host."""
    try:
        parts = [json.loads(data)]
    except (ValueError, RecursionError):
        return True
    while parts:
        part = parts.pop()
        if isinstance(part, dict) and any(ADDRESS.match(str(part.get(name) or "")) for name in ("path", "name")):
            return True
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return False


async def answer(send: Send, status: int, text: str, headers: Mapping[str, str] = {}) -> None:  # noqa: B006
    """Sends a short answer."""
    whole = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", **HEADERS, **headers}
    data = text.encode()
    listed = [(name.encode(), value.encode()) for name, value in {**whole, "content-length": str(len(data))}.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": data})


def split(address: str) -> SplitResult:
    """The parts of an address; none of one that cannot be read."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def is_address(name: str) -> bool:
    """Whether it is the address of a machine, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
