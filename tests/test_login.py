import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI

from cifar_lit.errors import SettingError
from cifar_lit.page.sign_in import MAX_FORM_BYTES, add_sign_in
from cifar_lit.serving.login import (
    COOKIE,
    MAX_SESSIONS,
    OFF,
    SESSION_S,
    SIGN_IN,
    TRIES_PER_MINUTE,
    Login,
)
from cifar_lit.serving.replies import RequestError

PASSWORD = "open sesame ü"
HERE, THERE = "192.0.2.1", "192.0.2.2"
FORM = {"content-type": "application/x-www-form-urlencoded"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(clock: Clock) -> Login:
    return Login(PASSWORD, clock=clock)


def visitor(cookies: dict[str, str]) -> gr.Request:
    """What a callback is given when such cookies come with its request."""
    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    scope = {"type": "http", "headers": [(b"cookie", header.encode())] if cookies else []}
    return gr.Request(gr.route_utils.fastapi.Request(scope))


def wrong(login: Login) -> None:
    with pytest.raises(RequestError, match="not the password"):
        login.sign_in("guess", HERE)


# Sessions


def test_the_right_password_gives_a_session(login: Login) -> None:
    token = login.sign_in(PASSWORD, HERE)
    assert login.signed_in({COOKIE: token})
    assert len(token) >= 43  # 32 random bytes


@pytest.mark.parametrize("password", ["", "open sesame", f"{PASSWORD} ", "Open sesame ü", "\udc80"])
def test_any_other_password_is_refused(login: Login, password: str) -> None:
    with pytest.raises(RequestError) as caught:
        login.sign_in(password, HERE)
    assert caught.value.status_code == 401


@pytest.mark.parametrize("cookies", [{}, {COOKIE: ""}, {COOKIE: "x"}, {COOKIE: PASSWORD}, {"other": "x"}])
def test_other_cookies_are_nobodys(login: Login, cookies: dict[str, str]) -> None:
    login.sign_in(PASSWORD, HERE)
    assert not login.signed_in(cookies)


def test_a_session_ends_after_twelve_hours(login: Login, clock: Clock) -> None:
    token = login.sign_in(PASSWORD, HERE)
    clock.now += SESSION_S - 1
    assert login.signed_in({COOKIE: token})
    clock.now += 1
    assert not login.signed_in({COOKIE: token})


def test_signing_out_ends_one_session_and_no_other(login: Login) -> None:
    one, other = login.sign_in(PASSWORD, HERE), login.sign_in(PASSWORD, HERE)
    login.sign_out({COOKIE: one})
    assert not login.signed_in({COOKIE: one})
    assert login.signed_in({COOKIE: other})


def test_the_oldest_session_makes_room(login: Login) -> None:
    tokens = [login.sign_in(PASSWORD, HERE) for _ in range(MAX_SESSIONS + 1)]
    assert [login.signed_in({COOKIE: token}) for token in tokens] == [False] + [True] * MAX_SESSIONS


def test_two_logins_share_no_session(login: Login) -> None:
    assert not Login(PASSWORD).signed_in({COOKIE: login.sign_in(PASSWORD, HERE)})


# Wrong passwords


def test_after_too_many_wrong_passwords_the_right_one_waits_too(login: Login, clock: Clock) -> None:
    for _ in range(TRIES_PER_MINUTE):
        wrong(login)
    with pytest.raises(RequestError) as caught:
        login.sign_in(PASSWORD, HERE)
    assert caught.value.status_code == 429
    assert caught.value.headers
    clock.now += int(caught.value.headers["Retry-After"])
    assert login.signed_in({COOKIE: login.sign_in(PASSWORD, HERE)})


def test_wrong_passwords_delay_no_other_address(login: Login) -> None:
    for _ in range(TRIES_PER_MINUTE):
        wrong(login)
    assert login.signed_in({COOKIE: login.sign_in(PASSWORD, THERE)})


def test_the_right_password_is_no_try(login: Login) -> None:
    for _ in range(3 * TRIES_PER_MINUTE):
        login.sign_in(PASSWORD, HERE)
    for _ in range(TRIES_PER_MINUTE):
        wrong(login)


def test_tries_that_had_to_wait_do_not_make_the_wait_longer(login: Login, clock: Clock) -> None:
    for _ in range(TRIES_PER_MINUTE):
        wrong(login)
    for _ in range(100):
        with pytest.raises(RequestError, match="more than 5 requests a minute"):
            login.sign_in("guess", HERE)
    clock.now += 60 / TRIES_PER_MINUTE
    login.sign_in(PASSWORD, HERE)


# Off


def test_without_a_password_nobody_signs_in() -> None:
    login = Login(None)
    assert not login.enabled
    for guess in ("", "None"):
        with pytest.raises(RequestError, match="switched off") as caught:
            login.sign_in(guess, HERE)
        assert caught.value.status_code == 403


@pytest.mark.parametrize("password", ["", "  "])
def test_an_empty_password_is_refused(password: str) -> None:
    with pytest.raises(SettingError, match="is empty"):
        Login(password)


# Callbacks of the page


def test_require_lets_the_signed_in_pass(login: Login) -> None:
    login.require(visitor({COOKIE: login.sign_in(PASSWORD, HERE)}))


def test_require_refuses_others_with_a_sentence(login: Login) -> None:
    with pytest.raises(RequestError, match=SIGN_IN) as caught:
        login.require(visitor({COOKIE: "x"}))
    assert caught.value.status_code == 401


def test_require_refuses_everybody_without_a_password() -> None:
    with pytest.raises(RequestError, match="switched off") as caught:
        Login(None).require(visitor({COOKIE: "x"}))
    assert caught.value.status_code == 403


def test_require_refuses_a_request_that_is_unknown(login: Login) -> None:
    with pytest.raises(RequestError, match=SIGN_IN):
        login.require(gr.Request(cookies={COOKIE: login.sign_in(PASSWORD, HERE)}))


def test_cookies_that_are_called_like_methods_break_nothing(login: Login) -> None:
    odd = {"keys": "1", "get": "2", "items": "3", "request": "4", "__dict__": "5"}
    assert login.knows(visitor({**odd, COOKIE: login.sign_in(PASSWORD, HERE)}))
    assert not login.knows(visitor(odd))


# Over HTTP


def ask(
    login: Login,
    method: str,
    path: str,
    *,
    scheme: str = "http",
    cookies: dict[str, str] | None = None,
    **options: Any,
) -> httpx.Response:
    app = FastAPI()
    add_sign_in(app, login)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://here", cookies=cookies) as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def post(login: Login, password: str, **options: Any) -> httpx.Response:
    return ask(login, "POST", "/login", data={"password": password}, **options)


def test_the_form_is_self_contained(login: Login) -> None:
    response = ask(login, "GET", "/login")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert 'type="password"' in response.text
    assert not re.findall(r"""(?:src|href)=["'](?!\./)|https?:|url\(""", response.text)
    assert response.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


def test_signing_in_sets_a_cookie_that_scripts_and_other_sites_do_not_get(login: Login) -> None:
    response = post(login, PASSWORD)
    assert response.status_code == 303
    assert response.headers["location"] == "./"
    value, *attributes = response.headers["set-cookie"].split("; ")
    assert login.signed_in(dict([value.split("=", 1)]))
    assert {each.lower() for each in attributes} == {"httponly", "samesite=strict", "path=/", f"max-age={SESSION_S}"}


def test_the_cookie_is_secure_over_https(login: Login) -> None:
    assert "secure" in post(login, PASSWORD, scheme="https").headers["set-cookie"].lower().split("; ")


def test_a_wrong_password_is_told_and_sets_no_cookie(login: Login) -> None:
    response = post(login, "<script>guess")
    assert response.status_code == 401
    assert "That is not the password" in response.text
    assert "guess" not in response.text
    assert "set-cookie" not in response.headers


def test_too_many_wrong_passwords_are_answered_429(login: Login) -> None:
    for _ in range(TRIES_PER_MINUTE):
        assert post(login, "guess").status_code == 401
    response = post(login, PASSWORD)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "12"
    assert "in 12 s" in response.text


def test_signing_in_again_ends_the_session_before(login: Login) -> None:
    token = login.sign_in(PASSWORD, HERE)
    post(login, PASSWORD, cookies={COOKIE: token})
    assert not login.signed_in({COOKIE: token})


def test_signing_out_forgets_session_and_cookie(login: Login) -> None:
    token = login.sign_in(PASSWORD, HERE)
    assert "You are signed in" in ask(login, "GET", "/login", cookies={COOKIE: token}).text
    response = ask(login, "POST", "/logout", cookies={COOKIE: token})
    assert response.status_code == 303
    assert "max-age=0" in response.headers["set-cookie"].lower()
    assert not login.signed_in({COOKIE: token})


def test_signing_out_without_a_session_does_nothing(login: Login) -> None:
    assert ask(login, "POST", "/logout").status_code == 303


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"password=x", {}, 400),
        (b'{"password": "x"}', {"content-type": "application/json"}, 400),
        (b"password=" + b"x" * MAX_FORM_BYTES, FORM, 413),
        (b"", FORM, 400),
        (b"word=x", FORM, 400),
        (b"password=x&password=y", FORM, 400),
        (b"&".join([b"a=1"] * 100), FORM, 400),
        (b"password=%ff", FORM, 401),
        (b"password=\xff", FORM, 401),
    ],
)
def test_other_bodies_are_refused(login: Login, content: bytes, headers: dict[str, str], status: int) -> None:
    response = ask(login, "POST", "/login", content=content, headers=headers)
    assert response.status_code == status
    assert "set-cookie" not in response.headers


def test_a_body_without_end_is_not_read_to_its_end(login: Login) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 1024
            yield b"x" * 1024

    assert ask(login, "POST", "/login", content=pieces(), headers=FORM).status_code == 413
    assert sent <= MAX_FORM_BYTES + 2048


def test_without_a_password_there_is_no_form() -> None:
    for response in (ask(Login(None), "GET", "/login"), post(Login(None), "x")):
        assert response.status_code == 403
        assert OFF in response.text
        assert "<form" not in response.text
