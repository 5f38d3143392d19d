"""The application with the page: what `cifar-lit serve` runs."""

from fastapi import FastAPI

from cifar_lit.page.page import mount_page
from cifar_lit.serving import app
from cifar_lit.serving.app import Options


def create_app(options: Options = Options()) -> FastAPI:  # noqa: B008
    """The application of `cifar_lit.serving.app`, with the page at `/`."""
    return app.create_app(options, mount_page)
