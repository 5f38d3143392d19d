"""How the *Teach* tab looks: from what is known to HTML. All text from outside is escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

from cifar_lit.feedback.fine_tune_job import Figures, Job
from cifar_lit.inference.service import ServedPrediction
from cifar_lit.page.answer import percent, picture, problem
from cifar_lit.page.teach_desk import Increment, View
from cifar_lit.serving.login import OFF

_STAGES = {
    "starting": "Starting",
    "collecting corrections": "Collecting the corrections",
    "reading data": "Reading old and new pictures",
    "learning": "Learning the new, and going over the old",
    "judging": "The gate measures what was learned and what was lost",
    "publishing": "Writing the new version",
}
_MEASURED = {
    "old": "Old pictures, kept out of all training",
    "new": "New pictures, held back from learning",
    "learned": "New pictures, learned from",
    "test": "Test pictures",
}
_HEADS = {
    "promoted": ("Passed the gate", "good"),
    "candidate": ("Kept as a candidate", "plain"),
    "rejected": ("Stopped by the gate", "bad"),
    "failed": ("Failed", "bad"),
    "stopped": ("Stopped", "plain"),
    "undone": ("Undone", "plain"),
}


def step(number: int, title: str, sentence: str) -> str:
    return f'<h2 class="t-step"><span aria-hidden="true">{number}</span>{title}</h2><p class="t-hint">{sentence}</p>'


def hint(sentence: str) -> str:
    return f'<p class="hint">{sentence}</p>'


def done(sentence: str) -> str:
    return f'<p class="t-done">{escape(sentence)}</p>'


def door(*, enabled: bool, signed_in: bool) -> str:
    """What stands before, or above, what only those may use who are signed in."""
    if not enabled:
        return hint(escape(OFF))
    if not signed_in:
        return hint(
            "Here the network learns from its mistakes: correct an answer, start a fine-tuning, and see whether the "
            'result is good enough to answer everybody. <a id="teach-sign-in" href="login">Sign in</a> to teach it.'
        )
    return (
        '<form class="t-account" method="post" action="logout"><span>You are signed in and may teach.</span>'
        '<button id="teach-sign-out" type="submit">Sign out</button></form>'
    )


def answered(answer: ServedPrediction) -> str:
    """What the champion says of a picture that may have to be corrected."""
    found = answer.prediction
    _, second, *_ = sorted(found.probabilities.items(), key=lambda item: -item[1])
    return (
        f'<div class="t-seen">{picture(answer.pixels, "Your picture as the network saw it, in 32 by 32 pixels")}'
        f'<div><p><strong class="version">{escape(found.version)}</strong> says</p>'
        f'<p class="t-said"><strong id="teach-said">{escape(found.prediction)}</strong> '
        f"<span>{percent(found.confidence)}</span></p>"
        f"<p>then {escape(second[0])}, {percent(second[1])}</p></div></div>"
    )


def added(rows: Sequence[tuple[str, ServedPrediction | str]], label: str) -> str:
    """Which pictures were added as a class, and why the others were not."""
    seen = "".join(picture(each.pixels, name) for name, each in rows if isinstance(each, ServedPrediction))
    wrong = [(name, each) for name, each in rows if isinstance(each, str)]
    num_added = len(rows) - len(wrong)
    found = f'<p class="t-done">{num_added} of {_count(len(rows), "picture")} added as {escape(label)}.</p>'
    found = found if num_added else ""
    if seen:
        found += f'<div class="t-thumbs">{seen}</div>'
    if wrong:
        items = "".join(f"<li><strong>{escape(name)}</strong>: {escape(why)}</li>" for name, why in wrong)
        found += f'<div class="problem"><p>Not added:</p><ul>{items}</ul></div>'
    return found


def audited(increment: Increment) -> str:
    """What was found about an increment."""
    audit = increment.audit
    name = escape(increment.name)
    if not increment.readable:
        return problem(f"{increment.name} can't be learned from: {audit.text.removeprefix('the file: ')}")
    head = (
        f'<p class="t-done">{name} can be learned from.</p>'
        if audit.ok
        else problem(f"There are errors in {increment.name}. A fine-tuning will leave out or refuse what is wrong.")
    )
    found = f'{head}<pre class="t-text" tabindex="0" aria-label="What the check found">{escape(audit.text)}</pre>'
    if audit.image is not None:
        data = base64.b64encode(audit.image.read_bytes()).decode()
        found += (
            '<figure class="t-doubts"><figcaption>The most doubtful labels</figcaption>'
            '<img alt="Pictures whose labels the network doubts; the text names them" '
            f'src="data:image/png;base64,{data}"></figure>'
        )
    return found


def waiting(count: int) -> str:
    if not count:
        return '<p class="t-waiting">No correction waits to be learned.</p>'
    verb = "waits" if count == 1 else "wait"
    return (
        f'<p class="t-waiting"><strong id="teach-count">{count:,}</strong> '
        f"{'correction' if count == 1 else 'corrections'} {verb} to be learned.</p>"
    )


def progress(job: Job | None) -> str:
    """How far a fine-tuning is; empty if none runs."""
    if job is None or job.state != "running":
        return ""
    done = round(100 * job.done)
    stage = escape(_STAGES.get(job.stage, job.stage))
    return (
        f'<p class="t-stage"><strong id="teach-stage">{stage} …</strong><span>{done} %, {_duration(job.seconds)}</span>'
        f'</p><div class="t-bar" role="progressbar" aria-label="Fine-tuning" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{done}"><i style="width:{done}%"></i></div>'
    )


def verdict(view: View) -> str:
    """What became of the last fine-tuning, with the figures that decided it."""
    job = view.job
    if job is None:
        return hint("What the gate decides, and why, will stand here.")
    if job.state == "running":
        return ""
    head, kind = _HEADS[job.state]
    version = f'<strong class="version" id="teach-version">{escape(job.version)}</strong>' if job.version else ""
    reason = f'<p class="t-reason"><strong>Why:</strong> {escape(_sentence(job.reason))}</p>' if job.reason else ""
    return (
        f'<section class="t-verdict t-{kind}" data-state="{job.state}"><h3>{version}<span class="t-badge">{head}</span>'
        f"</h3><p>{_outcome(view)}</p>{reason}{_figures(job.figures)}"
        f'<p class="t-took">It took {_duration(job.seconds)}.</p></section>'
    )


def _outcome(view: View) -> str:
    job = view.job
    assert job is not None
    version = escape(job.version or "")
    if job.state == "promoted":
        return {
            "now": f"{version} answers everybody from now on.",
            "soon": f"{version} will answer everybody in a moment …",
            "no more": f"{version} was made champion, but another version has taken its place by now.",
            "refused": f"{version} was made champion, but can't be served; the line at the top says why.",
            "": "",
        }[view.served]
    return {
        "candidate": f"{version} is kept, but was not made champion. The version before goes on answering.",
        "rejected": f"{version} is kept to be looked at, but answers nobody. The version before goes on answering.",
        "failed": "No version was made. The version before goes on answering.",
        "stopped": "Nothing has changed.",
        "undone": f"{escape(job.parent or 'The version before')} answers everybody again.",
    }[job.state]


def _figures(figures: Mapping[str, Figures]) -> str:
    """Accuracy before and after, as a table."""
    if not figures:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(_MEASURED.get(name, name))}<small>{_count(each.count, "picture")}</small></th>'
        f"<td>{_acc(each.before)}</td><td>{_acc(each.after)}</td>{_change(each)}</tr>"
        for name, each in figures.items()
    )
    return (
        '<table class="t-figures" id="teach-figures"><caption>Right answers</caption><thead><tr><td></td>'
        '<th scope="col">before</th><th scope="col">after</th><th scope="col">change</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _change(figures: Figures) -> str:
    points = round(100 * (figures.after - figures.before), 1)
    if not points:
        return '<td class="t-same">±0</td>'
    return f'<td class="{"t-up" if points > 0 else "t-down"}">{"+" if points > 0 else "−"}{abs(points):.1f}</td>'


def _acc(share: float) -> str:
    return f"{100 * share:.1f} %"


def _sentence(text: str) -> str:
    text = text.strip()
    return text + ("" if text.endswith((".", "!", "?")) else ".")


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
