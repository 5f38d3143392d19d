"""`/login` and `/logout`: the form where the password is asked for."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response

from cifar_lit.page.rendering import render
from cifar_lit.serving.login import COOKIE, OFF, SESSION_S, Login
from cifar_lit.serving.replies import RequestError

MAX_FORM_BYTES = 4096

_HOME = "./"  # relative: the application may be mounted below another path
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",  # with none, browsers send the form with the origin null
    "X-Content-Type-Options": "nosniff",
}

_log = logging.getLogger(__name__)


def add_sign_in(app: FastAPI, login: Login) -> None:
    """Adds the routes. To be called before the page is mounted."""

    @app.get("/login", include_in_schema=False)
    async def form(request: Request) -> Response:
        if not login.enabled:
            return _page(403, OFF)
        return _page(200, signed_in=login.signed_in(request.cookies), form=True)

    @app.post("/login", include_in_schema=False, max_body_size=MAX_FORM_BYTES)
    async def sign_in(request: Request) -> Response:
        client = request.client.host if request.client else "-"
        passwords = (await request.form(max_files=0, max_fields=8)).getlist("password")
        if len(passwords) != 1:
            return _page(400, "Expected a form with one field, the password.", form=login.enabled)
        try:
            token = login.sign_in(str(passwords[0]), client)
        except RequestError as error:
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


def _page(
    status: int,
    message: str = "",
    *,
    signed_in: bool = False,
    form: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response:
    content = render("sign_in", message=message, signed_in=signed_in, form=form)
    return Response(content, status, {**_HEADERS, **(headers or {})}, "text/html")
