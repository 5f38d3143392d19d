"""Who may administer: one password, a cookie, and sessions that only this process knows. Off without a password.

Hiding a button guards nothing, since anybody can send what it sends: whatever changes something calls `Login.require`.
"""

import hashlib
import hmac
import html
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response

from cifar_lit.errors import SettingError
from cifar_lit.serving.quota import Quota
from cifar_lit.serving.replies import RequestError

COOKIE = "cifar_lit_login"
PASSWORD_VARIABLE = "CIFAR_LIT_PASSWORD"
SESSION_S = 12 * 3600
MAX_SESSIONS = 64
TRIES_PER_MINUTE = 5
"""Wrong passwords of one address; then even the right one has to wait, if it comes from there."""
MAX_FORM_BYTES = 4096

OFF = f"Administration is switched off on this server. Start it with a password in {PASSWORD_VARIABLE} to switch it on."
SIGN_IN = "Sign in first: only those who know the password may do this."

_FORM = "application/x-www-form-urlencoded"
_HOME = "./"  # relative: the application may be mounted below another path
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",  # with none, browsers send the form with the origin null
    "X-Content-Type-Options": "nosniff",
}

_log = logging.getLogger(__name__)


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


def add_login(app: FastAPI, login: Login) -> None:
    """Adds `/login` and `/logout`. To be called before the page is mounted."""

    @app.get("/login", include_in_schema=False)
    async def form(request: Request) -> Response:
        if not login.enabled:
            return _page(403, OFF)
        return _page(200, signed_in=login.signed_in(request.cookies), form=True)

    @app.post("/login", include_in_schema=False)
    async def sign_in(request: Request) -> Response:
        client = request.client.host if request.client else "-"
        try:
            token = login.sign_in(await _password(request), client)
        except RequestError as error:
            if error.status_code in (401, 429):
                _log.warning("A sign-in from %s is refused: %s", client, error)
            return _page(error.status_code, str(error), form=login.enabled, headers=error.headers)
        _log.info("%s signed in", client)
        login.sign_out(request.cookies)  # the session before, if there was one
        return _home(request, token, SESSION_S)

    @app.post("/logout", include_in_schema=False)
    async def sign_out(request: Request) -> Response:
        login.sign_out(request.cookies)
        return _home(request, "", 0)


def _home(request: Request, token: str, max_age_s: int) -> Response:
    response = RedirectResponse(_HOME, 303, _HEADERS)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, max_age_s, path="/", secure=secure, httponly=True, samesite="strict")
    return response


async def _password(request: Request) -> str:
    """The field `password` of a form.

    Raises:
        RequestError: another type (415), more bytes than such a form has (413), not a form with that field (400).
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != _FORM:
        raise RequestError(415, f"Expected a form of the type {_FORM}.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM_BYTES:
            raise RequestError(413, f"The form has more than {MAX_FORM_BYTES:,} bytes.")
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=8, errors="strict")
    except ValueError:
        fields = []
    passwords = [value for name, value in fields if name == "password"]
    if len(passwords) != 1:
        raise RequestError(400, "Expected a form with one field, the password.")
    return passwords[0]


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · CIFAR-10 classifier</title>
<style>
:root {{ color-scheme: light dark; --back: #f8fafc; --card: #fff; --line: #cbd5e1; --text: #1e293b; --soft: #475569;
  --accent: #4f46e5; --on-accent: #fff; --bad: #b91c1c; --bad-back: #fef2f2; }}
@media (prefers-color-scheme: dark) {{ :root {{ --back: #0b0f19; --card: #1e293b; --line: #334155; --text: #f1f5f9;
  --soft: #94a3b8; --accent: #a5b4fc; --on-accent: #1e1b4b; --bad: #fca5a5; --bad-back: #3b1213; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 16px; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }}
main {{ width: 100%; max-width: 380px; padding: 28px; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }}
h1 {{ margin: 0 0 4px; font-size: 22px; line-height: 1.25; }}
p {{ margin: 0 0 16px; color: var(--soft); }}
.wrong {{ padding: 10px 12px; border-radius: 8px; color: var(--bad); background: var(--bad-back); }}
label {{ display: block; margin-bottom: 4px; font-weight: 600; }}
input, button {{ width: 100%; padding: 11px 12px; border-radius: 8px; font: inherit; }}
input {{ margin-bottom: 14px; border: 1px solid var(--line); background: var(--back); color: inherit; }}
button {{ border: 0; font-weight: 600; cursor: pointer; background: var(--accent); color: var(--on-accent); }}
a {{ color: var(--accent); }}
:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; }}
.back {{ margin: 18px 0 0; }}
</style>
</head>
<body>
<main>
{content}
<p class="back"><a id="back" href="./">Back to the page</a></p>
</main>
</body>
</html>
"""

_SIGN_IN_FORM = """<p>For teaching the network and choosing what is served. Classifying needs no password.</p>
{message}<form id="login" method="post" action="login">
<input name="username" value="administrator" autocomplete="username" hidden>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<button id="sign-in" type="submit">Sign in</button>
</form>"""

_SIGNED_IN = """<p>You are signed in, for twelve hours at most.</p>
<form id="logout" method="post" action="logout"><button id="sign-out" type="submit">Sign out</button></form>"""


def _page(
    status: int,
    message: str = "",
    *,
    signed_in: bool = False,
    form: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response:
    told = f'<p id="message" class="wrong" role="alert">{html.escape(message)}</p>\n' if message else ""
    content = "<h1>Sign in</h1>\n" + (_SIGN_IN_FORM.format(message=told) if form else told)
    if signed_in:
        content = f"<h1>Signed in</h1>\n{_SIGNED_IN}"
    return Response(_PAGE.format(content=content), status, {**_HEADERS, **(headers or {})}, "text/html")
