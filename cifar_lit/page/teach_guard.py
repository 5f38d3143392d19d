"""Keeps callbacks of the page to those who are signed in: hidden buttons keep nobody from sending what they send."""

import gradio as gr

from cifar_lit.errors import CifarLitError
from cifar_lit.serving.login import Login


def require(login: Login, request: gr.Request) -> None:
    """To be called first by each callback that is guarded.

    Raises:
        gr.Error: the visitor is not signed in, or nobody can; in words for the page.
    """
    try:
        login.require(request)
    except CifarLitError as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error
