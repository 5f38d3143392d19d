"""Who may administer: one password, a cookie, and sessions that only this process knows. Off without a password.

Hiding a button guards nothing, since anybody can send what it sends: whatever changes something calls `Login.require`.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.requests import Request

from cifar_lit.errors import SettingError
from cifar_lit.serving.quota import Quota
from cifar_lit.serving.replies import RequestError

COOKIE = "cifar_lit_login"
PASSWORD_VARIABLE = "CIFAR_LIT_PASSWORD"
SESSION_S = 12 * 3600
MAX_SESSIONS = 64
TRIES_PER_MINUTE = 5
"""Wrong passwords of one address; then even the right one has to wait, if it comes from there."""

OFF = f"Administration is switched off on this server. Start it with a password in {PASSWORD_VARIABLE} to switch it on."
SIGN_IN = "Sign in first: only those who know the password may do this."


class PageRequest(Protocol):
    """What a callback of the page is told of its request: a `gradio.Request`.

    Its own `cookies` are not to be used: a cookie that is called like one of their methods breaks them.
    """

    @property
    def request(self) -> Request | None: ...


class Login:
    """Knows the password and who is signed in. Who is may be asked from any thread, the rest from one event loop.

    Args:
        password: with None nobody can sign in, and all that is guarded is refused.
        clock: seconds, never going back.

    Raises:
        SettingError: the password is empty.
    """

    def __init__(self, password: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        if password is not None and not password.strip():
            raise SettingError(f"the password in {PASSWORD_VARIABLE} is empty. Choose one, or leave the variable out.")
        self._key = secrets.token_bytes(32)
        self._password = None if password is None else self._digest(password)
        self._clock = clock
        self._tries = Quota(TRIES_PER_MINUTE, clock)
        self._sessions: OrderedDict[bytes, float] = OrderedDict()  # until when, oldest first

    @property
    def enabled(self) -> bool:
        """Whether there is a password at all."""
        return self._password is not None

    def sign_in(self, password: str, address: str) -> str:
        """A new session's token, for the cookie.

        Args:
            password: as it was typed.
            address: that it came from.

        Raises:
            RequestError: no password is set (403), the password is wrong (401), or too many came from there (429).
        """
        if self._password is None:
            raise RequestError(403, OFF)
        self._tries.take(address)
        if not hmac.compare_digest(self._digest(password), self._password):
            raise RequestError(401, "That is not the password. Try again.")
        self._tries.forget(address)
        token = secrets.token_urlsafe(32)
        self._sessions[self._digest(token)] = self._clock() + SESSION_S
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return token

    def sign_out(self, cookies: Mapping[str, str]) -> None:
        """Ends the visitor's session, if there is one."""
        self._sessions.pop(self._digest(cookies.get(COOKIE, "")), None)

    def signed_in(self, cookies: Mapping[str, str]) -> bool:
        """Whether the cookies of a request are those of a session that still lasts."""
        digest = self._digest(cookies.get(COOKIE, ""))
        until = self._sessions.get(digest)
        if until is None:
            return False
        if until <= self._clock():
            self._sessions.pop(digest, None)
            return False
        return True

    def knows(self, visitor: PageRequest) -> bool:
        """Whether the request behind a callback of the page comes from somebody who is signed in."""
        return visitor.request is not None and self.signed_in(visitor.request.cookies)

    def require(self, visitor: PageRequest) -> None:
        """To be called first by each callback that changes something.

        Raises:
            RequestError: the visitor is not signed in (401), or nobody can (403).
        """
        if not self.enabled:
            raise RequestError(403, OFF)
        if not self.knows(visitor):
            raise RequestError(401, SIGN_IN)

    def _digest(self, text: str) -> bytes:
        """Of equal length and with a key of this process: comparing two of them tells nothing of the texts."""
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
