"""Who may ask for predictions, and how often: REST by API key, the page by sign-in. Knows nothing of models."""

import hmac
from dataclasses import dataclass

from fastapi import Request

from cifar_lit.serving.login import PASSWORD_VARIABLE, Login
from cifar_lit.serving.quota import Quota
from cifar_lit.serving.replies import RequestError

_CLOSED = (
    "This page needs a sign-in, which is switched off on this server. Start it with a password in "
    f"{PASSWORD_VARIABLE}, or with --public-page."
)
_SIGN_IN = "This page is for those who sign in: open /login first."


@dataclass(frozen=True)
class Admission:
    """Checks requests.

    Attributes:
        api_keys: REST asks for one of them in X-API-Key, and the page for a sign-in, if there are any.
        quota: of requests a minute, by key or else by address; the page's and REST's count together.
        login: knows who is signed in; they have no quota.
        public_page: the page asks for no sign-in all the same.
    """

    api_keys: frozenset[str]
    quota: Quota
    login: Login
    public_page: bool = False

    def check(self, request: Request) -> None:
        """To be called for each request to REST that has images classified.

        Raises:
            RequestError: no key that is known here (401), or too many requests (429).
        """
        given = request.headers.get("x-api-key", "")
        if self.api_keys and not any(hmac.compare_digest(given.encode(), key.encode()) for key in self.api_keys):
            raise RequestError(401, "the X-API-Key header is missing or holds no key that is known here.")
        self.quota.take(given if self.api_keys else address_of(request))

    @property
    def page_is_closed(self) -> bool:
        """Whether the page serves only those who are signed in."""
        return bool(self.api_keys) and not self.public_page

    def check_visitor(self, request: Request) -> None:
        """To be called for each upload to the page.

        Raises:
            RequestError: the page is closed, and the visitor is not signed in (401) or nobody can (403).
        """
        if self.page_is_closed and not self.login.signed_in(request.cookies):
            raise RequestError(401, _SIGN_IN) if self.login.enabled else RequestError(403, _CLOSED)

    def check_event(self, request: Request) -> None:
        """To be called for each event that a visitor of the page causes.

        Raises:
            RequestError: see `check_visitor`; or too many requests (429).
        """
        self.check_visitor(request)
        if not self.login.signed_in(request.cookies):
            self.quota.take(address_of(request))


def address_of(request: Request) -> str:
    """The client's address; empty if it is unknown."""
    return request.client.host if request.client else ""
