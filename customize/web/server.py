"""The server of `customize web`: Gradio's pages behind the guard, and the files of the workspace.

It owns nothing and trains nothing: torch never enters its process, and jobs go on when it ends.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import uvicorn

from customize.errors import InputError, Problem
from customize.storage.untrusted_files import START, kind_of, regular_file
from customize.web.access import Access
from customize.web.guard import LARGEST_FILE, SANDBOX, Guard
from customize.web.look import CSS, THEME
from customize.web.workspace import Workspace

PAGES = {"teach": "Teach", "runs": "Runs", "generate": "Generate", "look_inside": "Look inside", "doctor": "Doctor"}
"""Addresses, each with a module ADDRESS_page in `pages/`, in the order of the bar; the first is the start page."""
PICTURES = {
    "a PNG image": "image/png", "a JPEG image": "image/jpeg", "a WebP image": "image/webp", "a GIF image": "image/gif",
}  # fmt: skip
WITH_SCRIPTS = SANDBOX.replace("sandbox;", "sandbox allow-scripts;") + "; script-src 'unsafe-inline'"
"""Pages of runs and traces: their own scripts run, without an origin and without the network."""
DAY = 86400


def blocks(workspace: Workspace) -> gr.Blocks:
    """All pages that there are."""
    modules = [(route, title, f"customize.web.pages.{route}_page") for route, title in PAGES.items()]
    (_, first, start), *others = [(route, title, import_module(name)) for route, title, name in modules if find_spec(name)]
    with gr.Blocks(title="customize", analytics_enabled=False, delete_cache=(DAY // 24, DAY)) as demo:
        gr.Navbar(main_page_name=first)
        start.build(workspace)
    for route, title, page in others:
        with demo.route(title, route):
            gr.Navbar(main_page_name=first)
            page.build(workspace)
    return demo.queue(default_concurrency_limit=8, max_size=100, api_open=False)


def application(workspace: Workspace, access: Access | None, hosts: tuple[str, ...], uploads: Path) -> Guard:
    """The whole application. access, hosts: of the guard; uploads: where Gradio keeps files."""
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/files/{name:path}")
    def file(name: str) -> fastapi.Response:
        return served(workspace, name)

    demo = blocks(workspace)
    warnings.filterwarnings("ignore", "SSR mode is not supported")  # which is not asked for
    gr.mount_gradio_app(
        app, demo, "/", theme=THEME, css=CSS, show_error=False, max_file_size=LARGEST_FILE, allowed_paths=[], footer_links=[],
        run_history=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
    )  # fmt: skip
    demo.has_launched = True  # else Gradio would take any file of this machine that a request names for an uploaded one
    return Guard(app, access, hosts, tuple(PAGES), uploads)


def served(workspace: Workspace, name: str) -> fastapi.Response:
    """A file of the workspace: pictures by their content, pages of ours in a sandbox, everything else as a download."""
    path, start = workspace.served(name), b""
    with suppress(OSError):
        if path:
            with regular_file(path) as file:
                start = file.read(START)
    if not (path and start):
        return fastapi.Response("there is no such file", 404, media_type="text/plain")
    headers = {"cache-control": "private, max-age=31536000, immutable"}
    kind = PICTURES.get(kind_of(start))
    if kind is None and path.suffix == ".html":
        kind, headers["content-security-policy"] = "text/html", WITH_SCRIPTS
    if kind is None:
        kind, headers["content-security-policy"] = "application/octet-stream", SANDBOX
        return fastapi.responses.FileResponse(path, headers=headers, media_type=kind, filename=path.name)
    return fastapi.responses.FileResponse(path, headers=headers, media_type=kind)


@contextmanager
def upload_folder():
    """A folder that only this user can read, which is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="customize-web-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens on the port, or on the first free one from 7860. Raises InputError if there is none."""
    for each in [port] if port is not None else range(7860, 7880):
        found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if os.name != "nt":  # there it would let two servers share a port
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, each))
            found.listen(128)
            return found
        except OSError as error:
            found.close()
            reason = error.strerror
    which = f"{host}:{port}" if port is not None else f"7860 to 7879 of {host}"
    raise InputError(Problem("--port", f"{which} cannot be opened ({reason})", "close the program that uses it, or name another"))


def is_no_farewell(record: logging.LogRecord) -> bool:
    """Whether a message of the log is not about the connections of open pages that the end of the server cuts."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError) and "graceful shutdown" not in record.getMessage()


def serve(
    workspace: Workspace, listener: socket.socket, access: Access | None, hosts: tuple[str, ...], ready: Callable[[], Any]
) -> None:
    """Serves the pages until a signal. ready: called once they can be opened."""
    with upload_folder() as uploads:
        app = application(workspace, access, hosts, uploads)
        config = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=2, lifespan="on", ws="none"
        )  # fmt: skip
        logging.getLogger("uvicorn.error").addFilter(is_no_farewell)
        server = uvicorn.Server(config)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which uvicorn calls when it has ended: uploads are removed
        ready()
        server.run([listener])
