"""Who may open the page: whoever has its key, which the command prints, or the password of `--listen`.

Other users of the machine can reach 127.0.0.1 too, and so can every page that the browser shows; neither has the cookie.
"""

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from customize.errors import InputError, Problem

KEY = ".web-key"
SHORTEST = 12


@dataclass(frozen=True)
class Access:
    """The secret that opens the page, and the cookie that a browser gets for it.

    port: in the cookie's name, because all ports of a host share cookies; by_password: whether a person typed the secret;
    tickets: each opens the page once.
    """

    secret: str
    port: int
    by_password: bool = False
    tickets: set[str] = field(default_factory=set)

    @property
    def cookie_name(self) -> str:
        return f"customize_{self.port}"

    @cached_property
    def cookie(self) -> str:
        """The cookie's value, from which the secret cannot be computed."""
        return hashlib.scrypt(self.secret.encode(), salt=b"customize web", n=2**14, r=8, p=1, dklen=24).hex()

    def ticket(self) -> str:
        """A secret for one visit, for a command line that others can read in the list of processes."""
        self.tickets.add(made := secrets.token_urlsafe(24))
        return made

    def opens(self, given: str) -> bool:
        """Whether it is the secret, or a ticket, which is then used up; takes the same time for every wrong secret."""
        if given in self.tickets:
            self.tickets.remove(given)
            return True
        return hmac.compare_digest(given.encode(), self.secret.encode())

    def has_cookie(self, header: str) -> bool:
        """Whether the cookies of a request have ours."""
        pairs = (each.strip().partition("=") for each in header.split(";"))
        return any(
            name == self.cookie_name and hmac.compare_digest(value.encode(), self.cookie.encode()) for name, _, value in pairs
        )

    def set_cookie(self) -> str:
        """The header that gives a browser the cookie until it is closed."""
        return f"{self.cookie_name}={self.cookie}; Path=/; HttpOnly; SameSite=Strict"


def key_of(folder: Path) -> str:
    """The key of a workspace, made once and readable by this user alone, so that an open page survives a new server.

    One that others can read, or that is not ours, is replaced."""
    path = folder / KEY
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(descriptor, "r+") as file:
            found, known = os.fstat(descriptor), file.read(200).strip()
            is_mine = os.name == "nt" or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
            if is_mine and re.fullmatch(r"[\w-]{24,100}", known, re.ASCII):
                return known
            if os.name != "nt":
                os.fchmod(descriptor, 0o600)
            file.seek(0)
            file.truncate()
            file.write(made := secrets.token_urlsafe(24))
            return made
    except (OSError, ValueError) as error:
        raise InputError(Problem(str(path), "cannot be written", "make the folder writable, or name another FOLDER")) from error


def check_password(password: str) -> str:
    """The password. Raises InputError for one that is missing or can be guessed."""
    remedy = f"set CUSTOMIZE_WEB_PASSWORD to one of at least {SHORTEST} characters, or type it when asked"
    if not password:
        raise InputError(Problem("--listen", "needs a password: others can reach this port", remedy))
    steps = {ord(two) - ord(one) for one, two in pairwise(password)}
    if len(password) < SHORTEST or len(set(password)) < 6 or len(steps) < 4:
        raise InputError(Problem("password", "is too easy to guess", f"{remedy}, of several kinds, such as four words"))
    return password
