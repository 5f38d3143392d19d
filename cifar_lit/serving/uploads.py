"""The image files in the body of a request: a multipart form, or a raw image. Decodes nothing."""

from dataclasses import dataclass
from io import BytesIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, FormParser, parse_options_header

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


def boundary_of(content_type: str) -> bytes:
    """What stands between the parts of a form.

    Raises:
        ImageError: the type is no form's, or has no boundary.
    """
    # The time for options grows with the square of their number.
    options = parse_options_header(content_type)[1] if content_type.count(";") <= _MAX_OPTIONS else {}
    boundary = options.get(b"boundary")
    if not is_form(content_type) or not boundary:
        raise ImageError(f"the Content-Type is no form's, or names no boundary. {_ADVICE}", "malformed")
    return boundary


def _of_form(body: bytes, content_type: str) -> list[Upload]:
    boundary = boundary_of(content_type)
    # Millions of tiny parts would keep the parser, which is Python, busy for a quarter of a minute.
    if body.count(b"\r\n--" + boundary) > _MAX_PARTS:
        raise ImageError(
            f"the form has more than {_MAX_PARTS} parts. Send files alone, at most {MAX_FILES}.", "too_large"
        )
    uploads: list[Upload] = []
    others: list[str] = []
    ends: list[bool] = []

    def add(name: bytes | None, filename: bytes, data: bytes) -> None:
        if name != FIELD.encode():
            others.append((name or b"").decode("utf-8", "replace")[:80])
        elif len(uploads) == MAX_FILES:
            raise ImageError(f"the form has more than {MAX_FILES} files. Send the others in another.", "too_large")
        else:
            uploads.append(Upload(filename.decode("utf-8", "replace"), data))

    def on_file(file: File) -> None:
        assert isinstance(file.file_object, BytesIO)
        add(file.field_name, file.file_name or b"", file.file_object.getvalue())

    try:
        parser = FormParser(
            "multipart/form-data",
            lambda field: add(field.field_name, b"", field.value or b""),
            on_file,
            lambda: ends.append(True),
            boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body)},
        )
        parser.write(body)
    except FormParserError as error:
        raise ImageError(f"the form can't be read ({error}). {_ADVICE}", "malformed") from error
    if not ends:
        raise ImageError(f"the form ends before its last boundary. {_ADVICE}", "malformed")
    if not uploads:
        found = f" (it has {', '.join(map(repr, others))})" if others else ""
        raise ImageError(f"the form has no part {FIELD!r}{found}, expected at least one with an image.", "invalid")
    return uploads
