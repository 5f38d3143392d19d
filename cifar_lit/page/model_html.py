"""How the *Model* tab looks: from what is known of versions to HTML. All text from outside is escaped."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from cifar_lit.errors import RegistryError
from cifar_lit.page.answer import percent
from cifar_lit.page.catalogue import Entry, Served, in_words
from cifar_lit.registry.manifest import Manifest
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version

_MAX_TEXT = 100_000
_NOTHING = "–"
_PUBLISHED = "published"  # what the registry enters where its caller gives no reason
_STATUS = {"promoted": "good", "candidate": "plain", "rejected": "bad"}
_WHY = {"promoted": "Why it was promoted", "candidate": "Why it is a candidate", "rejected": "Why it was rejected"}
_UNDECIDED = "nobody has decided about it yet"


def warning(text: str) -> str:
    return f'<p class="m-warning" role="alert">{escape(text)}</p>'


def success(text: str) -> str:
    return f'<p class="m-success" role="status">{escape(text)}</p>'


def version_list(entries: Sequence[Entry], served_id: str | None, chosen_id: str | None) -> str:
    """A table with a row for each version, newest first. Its buttons choose one."""
    if not entries:
        return '<p class="m-empty">There is no version yet. <code>cifar-lit fit</code> makes one.</p>'
    rows = "".join(_row(entry, entry.id == served_id, entry.id == chosen_id) for entry in reversed(entries))
    return f"""<div class="m-scroll" role="region" aria-label="All versions" tabindex="0"><table class="m-list">
<thead><tr><th>Version</th><th>Status</th><th>Made from</th><th>Date (UTC)</th><th class="m-num">Validation</th>
<th class="m-num">Test</th><th>Why</th></tr></thead>
<tbody>{rows}</tbody></table></div>"""


def _row(entry: Entry, is_served: bool, is_chosen: bool) -> str:
    manifest = entry.manifest
    chosen = ' class="m-chosen"' if is_chosen else ""
    pressed = "true" if is_chosen else "false"
    button = (
        f'<button type="button" data-version="{escape(entry.id)}" aria-pressed="{pressed}">{escape(entry.id)}</button>'
    )
    if manifest is None:
        return (
            f'<tr data-version="{escape(entry.id)}"{chosen}><th scope="row">{button}</th>'
            f'<td>{badge("damaged", "bad")}</td><td class="m-why" colspan="5">{escape(entry.problem)}</td></tr>'
        )
    cells = [
        ("Made from", "", escape(str(manifest.parent or "scratch"))),
        ("", "", moment(manifest.created_at, short=True)),
        ("Validation", "m-num", figure(manifest.metrics.get("val/acc"))),
        ("Test", "m-num", figure(manifest.metrics.get("test/acc"))),
    ]
    middle = "".join(f'<td class="{kind}" data-label="{label}">{text}</td>' for label, kind, text in cells)
    why = entry.problem or _reason(manifest)
    return (
        f'<tr data-version="{escape(entry.id)}"{chosen}><th scope="row">{button}</th>'
        f"<td>{badges(entry, is_served)}</td>{middle}"
        f'<td class="m-why" title="{escape(why)}"><span>{escape(why)}</span></td></tr>'
    )


def _reason(manifest: Manifest) -> str:
    return _UNDECIDED if manifest.reason in ("", _PUBLISHED) else str(manifest.reason)


def badges(entry: Entry, is_served: bool) -> str:
    found = [badge("answers now", "accent")] if is_served else []
    if entry.manifest is not None:
        found.append(badge(entry.manifest.status, _STATUS[entry.manifest.status]))
    if entry.problem:
        found.append(badge("damaged", "bad"))
    return " ".join(found)


def badge(text: str, kind: str) -> str:
    return f'<span class="m-badge m-{kind}">{escape(text)}</span>'


def details(entry: Entry, is_served: bool, registry: Registry) -> str:
    """All that is known of a version: facts, report, pictures. Reads its files, each against its hash."""
    head = f'<h3 id="model-chosen" tabindex="-1">{escape(entry.id)} {badges(entry, is_served)}</h3>'
    manifest = entry.manifest
    if manifest is None:
        return f'<section class="m-details">{head}{warning(entry.problem)}</section>'
    trouble = warning(f"This version is damaged: {entry.problem}") if entry.problem else ""
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(manifest))
    version = Version(registry.root / entry.id, manifest)
    files = _Files(version, registry)
    name = "lessons" if "report/lessons.txt" in manifest.files else "forgetting"  # older releases called it so
    forgetting = (
        files.picture(f"report/{name}.png", "Accuracy of each class before and after", is_wide=True)
        + files.picture("report/flipped.png", "Pictures whose answer changed")
        + files.text(f"report/{name}.txt", "In figures")
    )
    report = files.text("report/report.txt", "Report", is_open=True)
    pictures = files.picture("report/confusion_matrix.png", "Which classes are taken for which")
    pictures += files.picture("report/curves.png", "How training went")
    return f"""<section class="m-details" aria-labelledby="model-chosen">{head}{trouble}
<p class="m-reason"><strong>{_WHY[manifest.status]}:</strong> {escape(_reason(manifest))}</p>
<dl class="m-facts">{facts}</dl>
{f"<h4>What it learned and lost against {escape(str(manifest.parent))}</h4>{forgetting}" if forgetting else ""}
{f"<h4>How well it does</h4>{report}{pictures}" if report or pictures else "<p>No report came with it.</p>"}
{files.text("config.yaml", "Configuration that makes it again")}</section>"""


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Names and values, as HTML. A manifest's inner values may be of any kind."""
    data, training = manifest.data, manifest.training
    train, test = _inner(data, "train"), _inner(data, "test")
    increments = [each for each in _items(data, "increments") if isinstance(each, dict)]
    origin = manifest.parent or training.get("imported_from") or training.get("from") or "scratch"
    epochs, best, seconds = training.get("epochs"), training.get("best_epoch"), training.get("seconds")
    course = [f"{epochs} {'epoch' if epochs == 1 else 'epochs'}" if epochs is not None else ""]
    course += [f"the best was number {best + 1}" if isinstance(best, int) and epochs != 1 else ""]
    course += [f"{seconds:,.0f} s" if isinstance(seconds, int | float) and seconds >= 1 else ""]
    found = [
        ("Made", moment(manifest.created_at)),
        ("Made from", escape(str(origin))),
        ("Validation accuracy", figure(manifest.metrics.get("val/acc"))),
        ("Test accuracy", figure(manifest.metrics.get("test/acc"))),
        ("Network", escape(str(manifest.network.get("name", _NOTHING)))),
        ("Training images", f"{count(train.get('count'))} ({escape(str(data.get('source', 'unknown')))})"),
        ("Test images", count(test.get("count"))),
        ("Training", escape(", ".join(filter(None, course))) or _NOTHING),
        ("Ended by", escape(str(training.get("ended_by", _NOTHING)))),
        ("Made with", escape(", ".join(f"{name} {value}" for name, value in manifest.code.items())) or _NOTHING),
    ]
    if increments:
        names = ", ".join(f"{each.get('name')} ({_images(each.get('count'))})" for each in increments)
        found.insert(6, ("Learned from", escape(names)))
    return found


class _Files:
    """Shows files of a version, or says why one can't be shown."""

    def __init__(self, version: Version, registry: Registry) -> None:
        self._version = version
        self._registry = registry

    def text(self, name: str, title: str, *, is_open: bool = False) -> str:
        data, trouble = self._read(name)
        if data is None:
            return trouble
        text = escape(data.decode("utf-8", "replace")[:_MAX_TEXT])
        return (
            f'<details class="m-text"{" open" if is_open else ""}><summary>{title}</summary>'
            f'<pre tabindex="0">{text}</pre></details>'
        )

    def picture(self, name: str, title: str, *, is_wide: bool = False) -> str:
        data, trouble = self._read(name)
        if data is None:
            return trouble
        kind = "m-figure m-wide" if is_wide else "m-figure"
        return (
            f'<figure class="{kind}"><figcaption>{title}</figcaption><div class="m-pan" tabindex="0">'
            f'<img alt="{title}" src="{png_url(data)}"></div></figure>'
        )

    def _read(self, name: str) -> tuple[bytes | None, str]:
        if name not in self._version.manifest.files:
            return None, ""
        try:
            return self._version.read(name), ""
        except RegistryError as error:
            return None, warning(f"This can't be shown: {in_words(error, self._registry)}")


def history(periods: Sequence[Served], shown: int = 50) -> str:
    """A table of what was served when, newest first."""
    if not periods:
        return '<p class="m-empty">No version was served yet.</p>'
    rows = []
    for each in list(reversed(periods))[:shown]:
        until = moment(each.until) if each.until else badge("until now", "accent")
        what = "rolled back to" if each.event == "rollback" else "promoted"
        rows.append(
            f'<tr><th scope="row">{escape(each.id)}</th><td data-label="From">{moment(each.since)}</td>'
            f'<td data-label="Until">{until}</td><td data-label="How">{what}</td>'
            f'<td class="m-why" title="{escape(each.reason)}"><span>{escape(each.reason) or _NOTHING}</span></td></tr>'
        )
    more = len(periods) - len(rows)
    rest = f'<p class="m-empty">and {more:,} before these, in history.jsonl</p>' if more > 0 else ""
    return f"""<div class="m-scroll" role="region" aria-label="What was served when" tabindex="0">
<table class="m-list m-history">
<thead><tr><th>Version</th><th>From</th><th>Until</th><th>How</th><th>Why</th></tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>{rest}"""


def comparison(found: Mapping[str, Any] | None) -> str:
    """Two versions' answers to one picture.

    Args:
        found: as the page's endpoint `/compare` gives it.
    """
    if not found:
        return '<p class="m-empty">Choose a picture, and both versions say what they take it for.</p>'
    one, other = found["answers"]
    names = [str(each["version"]) for each in (one, other)]
    said = [
        f"{escape(names[i])} says <strong>{escape(str(each['prediction']))}</strong> with {percent(each['confidence'])}"
        for i, each in enumerate((one, other))
    ]
    agree = one["prediction"] == other["prediction"]
    verdict = "They agree" if agree else "They disagree"
    mark = badge(verdict, "good" if agree else "bad")
    rows = []
    for name in sorted(one["probabilities"], key=lambda each: -max(_share(one, each), _share(other, each))):
        bars = "".join(
            f'<div class="m-bar m-bar{i}"><i style="width:{100 * _share(each, name):.2f}%"></i>'
            f'<b>{percent(_share(each, name))}</b><span class="m-hidden"> by {escape(names[i])}</span></div>'
            for i, each in enumerate((one, other))
        )
        rows.append(f'<div class="m-class" role="listitem"><span>{escape(str(name))}</span><div>{bars}</div></div>')
    return f"""<div class="m-compared"><div class="m-seen"><img alt="What both versions saw: 32 x 32 pixels"
src="{escape(str(found["seen"]))}"><p>What they saw: 32 × 32 pixels</p></div>
<div class="m-answers"><p class="m-verdict" role="status">{mark} {said[0]}, {said[1]}.</p>
<p class="m-legend"><span class="m-bar0"><i></i>{escape(names[0])}</span>
<span class="m-bar1"><i></i>{escape(names[1])}</span></p>
<div role="list">{"".join(rows)}</div></div></div>"""


def _share(answer: Mapping[str, Any], name: str) -> float:
    return min(1.0, max(0.0, float(answer["probabilities"].get(name, 0.0))))


def png_url(data: bytes) -> str:
    """A picture inside the page itself: nothing is left in a cache for others to download."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def figure(value: object) -> str:
    """A share, 0..1, in percent."""
    return f"{100 * value:.2f}\N{NO-BREAK SPACE}%" if isinstance(value, int | float) else _NOTHING


def count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _NOTHING


def _images(value: object) -> str:
    return f"{count(value)} {'image' if value == 1 else 'images'}"


def moment(text: str | None, *, short: bool = False) -> str:
    """A time, ISO 8601, as people write it."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return escape(str(text))
    shown = f"{when.day} {when:%b %Y}, {when:%H:%M}" + ("" if short else " UTC")
    return f'<time datetime="{escape(str(text))}">{shown}</time>'


def _inner(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _items(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    return found if isinstance(found, list) else []
