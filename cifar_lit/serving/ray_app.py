"""REST on several machines: the same application as replicas of a Ray Serve deployment.

    serve run configs/ray.yaml

Each replica has its own model, queue and limits, and follows the registry, which must lie where all of them see it. The
page is left out: its events need the one process that knows the visitor.
"""

from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from cifar_lit.serving.app import Options, create_app


class Arguments(BaseModel):
    """`args` of the application in a Serve config file.

    Attributes:
        registry: folder of the versions; None for the default.
        decode_workers: processes of each replica that decode images.
    """

    model_config = ConfigDict(extra="forbid")

    registry: Path | None = None
    decode_workers: int = 1


def build_app(arguments: Arguments) -> Application:
    """The deployment; replicas, autoscaling and resources are the config file's to say."""

    def build() -> FastAPI:
        return create_app(Options(arguments.registry, decode_workers=arguments.decode_workers))

    @serve.deployment(name="cifar10")
    @serve.ingress(build)
    class Replica:
        pass

    return Replica.bind()  # type: ignore[attr-defined,no-any-return]
