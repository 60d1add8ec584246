"""`customize web [FOLDER]`: the page, for this machine alone or, with a password, for others."""

import os
import sys
import webbrowser
from collections.abc import Sequence
from getpass import getpass
from importlib.util import find_spec

from customize.cli.main import outcome
from customize.cli.parser import Parser
from customize.errors import InputError, Problem

USAGE = "customize web [FOLDER] [--port N] [--listen [ADDRESS]] [--no_browser]"
ABOUT = """Starts the page, on which photos are taught, runs are watched and images generated. FOLDER (the current one by default)
holds runs/, images/, photos/ and jobs/. Jobs are processes of their own: they go on when the page or its server is closed."""
EPILOG = """The page is for this machine alone, and for whoever has the printed address. With --listen others reach it too, over
plain HTTP, with the password in CUSTOMIZE_WEB_PASSWORD or typed when asked. Whoever has it can do what you can do with customize
here: read any image, train, use your login of the hub. From afar, `ssh -L 7860:localhost:7860 HOST` is safer.
Jobs that wait in a folder of somebody else do not start by themselves: the page Runs shows them and starts them when you say so;
in a terminal, the first line of jobs/NAME/config.toml is the command that does."""
PASSWORD = "CUSTOMIZE_WEB_PASSWORD"


def main(argv: Sequence[str]) -> int:
    """Serve the page; return the exit status."""
    if {"--help", "-h"} & set(argv):
        print(parser().format_help(), end="")
        return 0
    return outcome("customize web", lambda: run(argv))


def run(argv: Sequence[str]) -> int:
    """Serve the page as the arguments say."""
    from customize.storage.disk import make_folder
    from customize.web.access import Access, check_password, key_of
    from customize.web.workspace import opened

    given = parser().read(argv)
    if find_spec("gradio") is None:
        raise InputError(Problem("gradio", "is not installed, and the page needs it", 'pip install "customize[web]"'))
    workspace = opened(given.folder)
    password = check_password(asked()) if given.listen else None
    if given.port is not None and not 0 <= given.port < 65536:
        raise InputError(Problem("--port", f"{given.port} is not a port", "give a number from 1024 to 65535"))
    from customize.web.server import listening, serve

    make_folder(workspace.folder)
    os.chdir(workspace.folder)  # relative paths mean the same as in a terminal there
    listener = listening(given.listen or "127.0.0.1", given.port)
    port = listener.getsockname()[1]
    access = Access(password or key_of(workspace.folder), port, by_password=password is not None)
    url = f"http://{given.listen or '127.0.0.1'}:{port}/" + ("" if password else f"?key={access.secret}")

    def ready() -> None:
        print(f"{url}\nopens the page of {workspace.folder}; Ctrl-C ends it, and jobs go on", flush=True)
        if not (given.no_browser or given.listen) and (os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")):
            webbrowser.open(f"http://127.0.0.1:{port}/?key={access.ticket()}")

    serve(workspace, listener, access, () if password else ("localhost",), ready)
    return 0


def asked() -> str:
    """The password from the environment, or as typed; empty without either."""
    if (given := os.environ.pop(PASSWORD, None)) is not None:  # not left for the processes of jobs
        return given
    return getpass("password for the page: ") if sys.stdin is not None and sys.stdin.isatty() else ""


def parser() -> Parser:
    """The arguments of the command."""
    made = Parser("customize web", USAGE, ABOUT, EPILOG)
    made.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="where results are (default: the current folder)")
    made.add_argument("--port", type=int, help="default: the first free one from 7860")
    made.add_argument("--listen", nargs="?", const="0.0.0.0", metavar="ADDRESS", help="serve other machines; needs a password")
    made.add_argument("--no_browser", action="store_true", help="print the address only")
    return made
