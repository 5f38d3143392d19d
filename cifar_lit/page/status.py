"""The line that says which version answers, and why another one does not."""

from html import escape

from cifar_lit.errors import CifarLitError
from cifar_lit.inference.service import Service


def status(service: Service) -> str:
    """HTML; it says the same until something changes."""
    refusal = service.champion.refusal
    try:
        serving = service.champion.serving
    except CifarLitError as error:
        return f'<p class="problem">Nothing can be answered now: {escape(str(error))}</p>'
    version = escape(serving.predictor.version)
    acc = serving.manifest.metrics.get("test/acc")
    right = "" if acc is None else f", right on {100 * acc:.1f} % of its test pictures"
    line = (
        f'<p><span class="lamp" aria-hidden="true"></span><strong id="served-version">{version}</strong> answers{right}'
        f' <span class="since">(since {_minute(serving.since)})</span></p>'
    )
    if refusal is None:
        return line
    return (
        f'{line}<p class="problem">{escape(refusal.version)} was made champion, but is refused: '
        f"{escape(refusal.reason)} {version} goes on answering.</p>"
    )


def _minute(iso: str) -> str:
    """2026-11-23T12:00:59+00:00 becomes 2026-11-23 12:00 UTC."""
    return f"{iso[:10]} {iso[11:16]} UTC"
