import random

import pytest

from cifar_lit.errors import ImageError
from cifar_lit.serving import uploads
from cifar_lit.serving.uploads import MAX_FILES, Upload, read_uploads

FORM = "multipart/form-data; boundary=xyz"
ADDRESSES = [
    b"http://example.org/cat.png",
    b"https://example.org/cat.png",
    b"HTTP://EXAMPLE.ORG/cat.png",
    b"data:image/png;base64,iVBORw0KGgo=",
    b"file:///etc/passwd",
    b"ftp://example.org/cat.png",
]


def part(data: bytes, disposition: bytes = b'form-data; name="file"; filename="a.png"', *headers: bytes) -> bytes:
    lines = (b"Content-Disposition: " + disposition, *headers)
    return b"--xyz\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


def refusal(body: bytes, content_type: str = FORM) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        read_uploads(body, content_type)
    return caught.value.fault, str(caught.value)


# A raw body


@pytest.mark.parametrize(
    "content_type",
    ["", "image/png", "image/jpeg", "IMAGE/PNG", "image/webp; charset=binary", "application/octet-stream"],
)
def test_a_raw_body_is_one_file_without_a_name(content_type: str) -> None:
    assert read_uploads(b"\x89PNG", content_type) == [Upload("", b"\x89PNG")]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
        "text/html; charset=utf-8",
        "multipart/mixed; boundary=xyz",
        "multipart/related",
        "video/mp4",
        "application/zip",
        "x",
        ";",
    ],
)
def test_another_type_is_not_accepted(content_type: str) -> None:
    fault, message = refusal(b"\x89PNG", content_type)
    assert fault == "unsupported"
    assert repr(content_type.split(";")[0]) in message
    assert "expected multipart/form-data with a part 'file', or the bytes of an image" in message


def test_a_million_fields_are_not_read() -> None:
    assert refusal(b"a=b&" * 10**6, "application/x-www-form-urlencoded")[0] == "unsupported"


def test_a_long_type_is_not_repeated_in_full() -> None:
    assert len(refusal(b"", "x" * 10_000)[1]) < 300


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_not_fetched(address: bytes) -> None:
    for body, content_type in ((address, "image/png"), (form(part(address)), FORM)):
        assert refusal(body, content_type) == (
            "invalid",
            "this is an address, expected the image itself: nothing is fetched.",
        )


# A form


def test_a_part_is_a_file_with_its_name() -> None:
    assert read_uploads(form(part(b"\x89PNG\r\n--xy\r\n")), FORM) == [Upload("a.png", b"\x89PNG\r\n--xy\r\n")]


def test_files_come_in_their_order() -> None:
    parts = [part(b"%d" % number, b'form-data; name="file"; filename="%d.png"' % number) for number in range(MAX_FILES)]
    assert read_uploads(form(*parts), FORM) == [Upload(f"{n}.png", b"%d" % n) for n in range(MAX_FILES)]


@pytest.mark.parametrize(
    "content_type",
    ['multipart/form-data; boundary="xyz"', "Multipart/Form-Data; Boundary=xyz", f"{FORM}; charset=utf-8"],
)
def test_the_boundary_may_be_written_in_any_valid_way(content_type: str) -> None:
    assert read_uploads(form(part(b"x")), content_type) == [Upload("a.png", b"x")]


@pytest.mark.parametrize("other", [part(b"1", b'form-data; name="other"'), part(b"", b'form-data; name=""')])
def test_other_fields_beside_a_file_do_no_harm(other: bytes) -> None:
    assert read_uploads(form(other, part(b"x"), other), FORM) == [Upload("a.png", b"x")]


def test_a_part_may_be_empty() -> None:
    assert read_uploads(form(part(b"")), FORM) == [Upload("a.png", b"")]


def test_the_type_of_a_part_decides_nothing() -> None:
    assert read_uploads(form(part(b"x", b'form-data; name="file"', b"Content-Type: text/html")), FORM)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'form-data; name="file"', ""),
        (b'form-data; name=file; filename="x.png"', "x.png"),
        (b'form-data; name="file"; filename="%b"' % (b"n" * 4_000), "n" * 4_000),
        ('form-data; name="file"; filename="\u202egnp.\u05d0"'.encode(), "\u202egnp.\u05d0"),
        (b'form-data; name="file"; filename="a\x00b"', "a\x00b"),
        (b'form-data; name="file"; filename="a%0D%0Ab"', "a%0D%0Ab"),
        (b'form-data; name="file"; filename="../../etc/passwd"', "../../etc/passwd"),
        (b'form-data; name="file"; filename="C:\\photos\\cat.png"', "cat.png"),
        (b'form-data; name="file"; filename="\xff\xfe"', "\ufffd\ufffd"),
        (b'form-data; name="file"; filename="\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (b'form-data; name="file"; filename="a;b\\"c.png"', 'a;b"c.png'),
        (b"form-data; name=\"file\"; filename*=UTF-8''x.png", ""),
    ],
)
def test_the_name_of_a_file_is_only_a_name(disposition: bytes, name: str) -> None:
    assert read_uploads(form(part(b"x", disposition)), FORM) == [Upload(name, b"x")]


def test_a_form_without_the_field_names_those_it_has() -> None:
    parts = [part(b"x", b'form-data; name="%b"' % name) for name in (b"image", b"files")]
    assert refusal(form(*parts)) == (
        "invalid",
        "the form has no part 'file' (it has 'image', 'files'), expected at least one with an image.",
    )


def test_long_names_of_fields_are_not_repeated_in_full() -> None:
    parts = [part(b"x", b'form-data; name="%b"' % (b"n" * 4_000))] * 100
    assert len(refusal(form(*parts))[1]) < 10_000


@pytest.mark.parametrize("body", [b"--xyz--\r\n", b"--xyz--"])
def test_an_empty_form_has_no_file(body: bytes) -> None:
    fault, message = refusal(body)
    assert (fault, message) == ("invalid", "the form has no part 'file', expected at least one with an image.")


def test_a_file_too_many_is_too_many() -> None:
    fault, message = refusal(form(*[part(b"x")] * (MAX_FILES + 1)))
    assert (fault, message) == ("too_large", "the form has more than 64 files. Send the others in another.")


@pytest.mark.parametrize(
    "parts",
    [
        b"--xyz\r\n\r\n\r\n" * 300_000,
        b"--xyz\r\nA: b\r\n\r\n\r\n" * 300_000,
        part(b"", b'form-data; name="x"') * 300_000,
        part(b"", b'form-data; name="file"') * 300_000,
        part(b"\r\n--xyzz" * 300_000),
    ],
    ids=["no headers", "a header", "other fields", "files", "nearly boundaries"],
)
def test_a_flood_of_parts_is_not_parsed(monkeypatch: pytest.MonkeyPatch, parts: bytes) -> None:
    monkeypatch.delattr(uploads, "FormParser")
    fault, message = refusal(form(parts))
    assert (fault, message) == ("too_large", "the form has more than 128 parts. Send files alone, at most 64.")


@pytest.mark.parametrize("header", [b"form-data" + b";" * 65, b'form-data; name="file' + b'";"' * 65])
def test_a_flood_of_options_is_not_parsed(header: bytes) -> None:
    assert refusal(b"", "multipart/form-data" + header[9:].decode())[0] == "malformed"


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""', f"{FORM}{'x' * 300}"],
)
def test_a_form_without_a_boundary_to_go_by_is_malformed(content_type: str) -> None:
    fault, message = refusal(form(part(b"x")), content_type)
    assert fault == "malformed"
    assert message.endswith("Let an HTTP library make the form.")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x89PNG",
        b"\r\n" * 100,
        b"--abc\r\n\r\n\r\n--abc--\r\n",
        part(b"x"),
        part(b"x") + b"--xyz",
        part(b"x") + b"--xyz-",
        form(part(b"x"), part(b"x", b"form-data")),
        form(part(b"x", b"form-data" + b";" * 10_000)),
        b"--xyz\nContent-Disposition: form-data\n\nx\n--xyz--\n",
        b"--xyz\r\nno header\r\n\r\nx\r\n--xyz--",
        b"--xyz\r\n: x\r\n\r\nx\r\n--xyz--",
        b"--xyz\r\nA\x00: x\r\n\r\nx\r\n--xyz--",
        b"--xyz\r\n" + b"A: b\r\n" * 20 + b"\r\nx\r\n--xyz--",
        form(part(b"x", b'form-data; name="file"; filename="%b"' % (b"n" * 10_000))),
    ],
)
def test_a_form_that_is_not_as_it_should_be_is_malformed(body: bytes) -> None:
    fault, message = refusal(body)
    assert fault == "malformed"
    assert "Let an HTTP library make the form" in message


def test_a_form_that_is_cut_anywhere_is_malformed() -> None:
    whole = part(b"first") + part(b"second")
    for length in range(len(whole)):
        assert refusal(whole[:length])[0] == "malformed", length


def test_damaged_forms_are_read_or_refused_and_nothing_else() -> None:
    drawn = random.Random(0)
    whole = form(part(b"first"), part(b"1", b'form-data; name="other"'), part(b"second"))
    outcomes: set[object] = set()
    for _ in range(3_000):
        body = bytearray(whole)
        for _ in range(drawn.randint(1, 4)):
            place = drawn.randrange(len(body))
            match drawn.randrange(3):
                case 0:
                    body[place] = drawn.randrange(256)
                case 1:
                    del body[place : place + drawn.randint(1, 30)]
                case 2:
                    body[place:place] = drawn.choice([b"\r\n", b"--xyz", b"\r\n--xyz\r\n", b";", b'"', b"\xff", b"\0"])
        try:
            outcomes.add(len(read_uploads(bytes(body), FORM)))
        except ImageError as error:
            outcomes.add(error.fault)
    assert outcomes >= {1, 2, "malformed", "invalid"}
