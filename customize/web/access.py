"""Who may open the page: whoever has its key, which the command prints, or the password of `--listen`.

Other users of the machine can reach 127.0.0.1 too, and so can every page that the browser shows; neither has the cookie.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from customize.errors import InputError, Problem
from customize.jobs import user_key

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
    """The key of a workspace, the same as long as its folder has this place, so that an open page survives a new server.

    It is made of the user's own key, and no file of the workspace says it: whoever prepared the folder would know it."""
    return user_key.signature("page", os.path.realpath(folder))[:32]


def check_password(password: str) -> str:
    """The password. Raises InputError for one that is missing or can be guessed."""
    remedy = f"set CUSTOMIZE_WEB_PASSWORD to one of at least {SHORTEST} characters, or type it when asked"
    if not password:
        raise InputError(Problem("--listen", "needs a password: others can reach this port", remedy))
    steps = {ord(two) - ord(one) for one, two in pairwise(password)}
    if len(password) < SHORTEST or len(set(password)) < 6 or len(steps) < 4:
        raise InputError(Problem("password", "is too easy to guess", f"{remedy}, of several kinds, such as four words"))
    return password
