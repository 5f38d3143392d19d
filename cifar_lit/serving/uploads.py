"""The image files in the body of a request: a multipart form, or a raw image. Decodes nothing."""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from cifar_lit.errors import ImageError

FIELD = "file"
MAX_FILES = 64

_MAX_PARTS = 2 * MAX_FILES
_MAX_OPTIONS = 64
_ADVICE = "Let an HTTP library make the form."
_ADDRESSES = (b"http://", b"https://", b"ftp://", b"file://", b"data:")


@dataclass(frozen=True)
class Upload:
    """An image file as it came.

    Attributes:
        name: as the client called it; empty if it did not.
        data: content.
    """

    name: str
    data: bytes


def is_form(content_type: str) -> bool:
    return content_type.lower().startswith("multipart/form-data")


def read_uploads(body: bytes, content_type: str) -> list[Upload]:
    """The image files of a request.

    Args:
        body: all of it.
        content_type: the request's header. A form has them in parts named `file`; anything that is called an image, an
            octet stream or nothing is one file.

    Raises:
        ImageError: another type; not a form as it should be; no file or too many in it; an address instead of a file.
    """
    if is_form(content_type):
        uploads = _of_form(body, content_type)
    elif content_type == "" or content_type.lower().startswith(("image/", "application/octet-stream")):
        uploads = [Upload("", body)]
    else:
        raise ImageError(
            f"the body is {content_type.split(';')[0][:80]!r}, expected multipart/form-data with a part {FIELD!r}, or "
            "the bytes of an image with an image type.",
            "unsupported",
        )
    for upload in uploads:
        if upload.data[:8].lower().startswith(_ADDRESSES):
            raise ImageError("this is an address, expected the image itself: nothing is fetched.", "invalid")
    return uploads


class _Form:
    """Collects the parts of a form as the parser meets them."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.others: list[str] = []
        self.complete = False
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value, self._data = bytearray(), bytearray(), bytearray()

    def on_part_begin(self) -> None:
        self._headers, self._data = {}, bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        options = options_of(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != FIELD:
            self.others.append(name[:80])
            return
        if len(self.uploads) == MAX_FILES:
            raise ImageError(f"the form has more than {MAX_FILES} files. Send the others in another.", "too_large")
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        self.uploads.append(Upload(filename, bytes(self._data)))

    def on_end(self) -> None:
        self.complete = True


def _of_form(body: bytes, content_type: str) -> list[Upload]:
    boundary = options_of(content_type.encode("latin-1", "replace")).get(b"boundary")
    if not boundary:
        raise ImageError(f"the form's Content-Type names no boundary. {_ADVICE}", "malformed")
    # Millions of tiny parts would keep the parser, which is Python, busy for a quarter of a minute.
    if body.count(b"\r\n--" + boundary) > _MAX_PARTS:
        raise ImageError(
            f"the form has more than {_MAX_PARTS} parts. Send files alone, at most {MAX_FILES}.", "too_large"
        )
    form = _Form()
    names = ("on_part_begin", "on_header_field", "on_header_value", "on_header_end", "on_part_data", "on_part_end")
    callbacks = {name: getattr(form, name) for name in (*names, "on_end")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ImageError(f"the form can't be read ({error}). {_ADVICE}", "malformed") from error
    if not form.complete:
        raise ImageError(f"the form ends before its last boundary. {_ADVICE}", "malformed")
    if not form.uploads:
        others = f" (it has {', '.join(map(repr, form.others))})" if form.others else ""
        raise ImageError(f"the form has no part {FIELD!r}{others}, expected at least one with an image.", "invalid")
    return form.uploads


def options_of(header: bytes) -> dict[bytes, bytes]:
    if header.count(b";") > _MAX_OPTIONS:  # the time for them grows with the square of their number
        raise ImageError(f"a header has more than {_MAX_OPTIONS} semicolons. {_ADVICE}", "malformed")
    return parse_options_header(header)[1]
