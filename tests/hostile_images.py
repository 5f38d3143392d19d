"""Image files that are damaged, built to deceive or only mistaken, each with how it must be refused; and sound ones.

`HOSTILE`, `FRAGMENTS` and `GOOD` are for everything that takes an image.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from cifar_lit.data.images import MAX_BYTES
from cifar_lit.errors import Fault

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
RAMP = np.stack([*np.mgrid[0:32, 0:32] * 8, np.full((32, 32), 90)], axis=2).astype(np.uint8)
GREY = RAMP[:, :, 1]
RAMP_IMAGE, GREY_IMAGE, NOISE_IMAGE = Image.fromarray(RAMP), Image.fromarray(GREY), Image.fromarray(NOISE)
SCENE = np.kron(RAMP[::8, ::8][:, :3], np.ones((16, 16, 1), np.uint8))
"""An image (64, 48, 3) that every turning and mirroring changes."""


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def taken(kind: str, orientation: int, **options: object) -> bytes:
    """`SCENE` as a camera that was held in this way stores it."""
    # The transposition that each orientation undoes.
    names = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270"]
    scene = Image.fromarray(SCENE)
    stored = scene.transpose(Image.Transpose[names[orientation - 2]]) if orientation > 1 else scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(stored, kind, exif=exif, **options)


# PNG


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, interlace: int = 0, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_of_stream(stream: bytes) -> bytes:
    """32x32 RGB, with these bytes where the compressed pixels should be, and all checksums of chunks right."""
    return PNG[:33] + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def unfiltered(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def flipped(data: bytes, place: int, bits: int = 1) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def cut_at_chunks(data: bytes) -> Iterator[bytes]:
    """A PNG cut at both ends of every chunk's name and content, and amid its content."""
    position = 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        ends = (0, 4, 8, 8 + length // 2, 8 + length, 11 + length)
        yield from (data[: position + end] for end in ends)
        position += 12 + length


# JPEG


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and bytes of each segment before the coded data, which are the last (with marker 0)."""
    found, position = [], 2
    while True:
        marker, (length,) = data[position + 1], struct.unpack_from(">H", data, position + 2)
        found.append((marker, data[position : position + 2 + length]))
        position += 2 + length
        if marker == 0xDA:
            return [*found, (0, data[position:])]


def jpeg_with(change: Callable[[int, bytes], bytes], data: bytes | None = None) -> bytes:
    """A JPEG after a change of each of its segments; the coded data and the end have marker 0."""
    return b"\xff\xd8" + b"".join(change(marker, body) for marker, body in segments(data or JPEG))


def jpeg_without(*markers: int, data: bytes | None = None) -> bytes:
    return jpeg_with(lambda marker, body: b"" if marker in markers else body, data)


def jpeg_of_size(width: int, height: int, data: bytes | None = None) -> bytes:
    """A JPEG whose frame header claims another size than its coded data have."""
    return jpeg_with(
        lambda marker, body: (
            body[:5] + struct.pack(">HH", height, width) + body[9:] if marker in (0xC0, 0xC2) else body
        ),
        data,
    )


def jpeg_as_frame(marker: int) -> bytes:
    return jpeg_with(lambda own, body: body[:1] + bytes([marker]) + body[2:] if own == 0xC0 else body)


def jpeg_before(marker: int, extra: bytes, data: bytes | None = None) -> bytes:
    return jpeg_with(lambda own, body: (extra if own == marker else b"") + body, data)


def ycck() -> bytes:
    """`RAMP` in four components, luminance, chrominance and black, Adobe-inverted."""
    inverse = np.asarray(Image.fromarray(255 - RAMP).convert("YCbCr"))
    no_black = np.full_like(GREY, 255)
    # Pillow inverts what it writes, and says with Adobe's transform 0 that it is CMYK.
    data = encoded(Image.fromarray(255 - np.dstack([inverse, no_black]), "CMYK"), "JPEG", quality=95)
    return jpeg_with(lambda marker, body: body[:-1] + b"\2" if marker == 0xEE else body, data)


def one_component_missing() -> bytes:
    """A progressive JPEG whose second and third component have no coded data."""
    scans = [m for m in range(len(PROGRESSIVE)) if PROGRESSIVE[m : m + 2] == b"\xff\xda"]
    first = PROGRESSIVE[: scans[0]] + b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 0, 1)
    following = PROGRESSIVE.index(b"\xff\xc4", scans[0])
    return first + PROGRESSIVE[scans[0] + 14 : following] + b"\xff\xd9"


def cut_progressive() -> bytes:
    """Its last scan is missing, but it has an end."""
    return PHOTO_PROGRESSIVE[: PHOTO_PROGRESSIVE.rindex(b"\xff\xda")] + b"\xff\xd9"


def many_scans() -> bytes:
    """A progressive JPEG that goes on and on about the same coefficients."""
    last = PROGRESSIVE.rindex(b"\xff\xda")
    return PROGRESSIVE[:-2] + PROGRESSIVE[last:-2] * 1_000 + b"\xff\xd9"


# WebP


def riff(*chunks: tuple[bytes, bytes], length: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) if length is None else length) + body


def webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], 12
    while position < len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        chunks.append((name, data[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    return chunks


def extended(flags: int, width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def animation(kind: str, num_frames: int) -> bytes:
    frames = [Image.fromarray(np.full((8, 8, 3), frame % 256, np.uint8)) for frame in range(num_frames)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=10)


def padded(data: bytes, size: int) -> bytes:
    """A file of this size: what follows the end of an image is not looked at."""
    return data + bytes(size - len(data))


PNG, GREY_PNG = encoded(NOISE_IMAGE), encoded(GREY_IMAGE)
JPEG, PROGRESSIVE = encoded(RAMP_IMAGE, "JPEG"), encoded(RAMP_IMAGE, "JPEG", progressive=True)
NOISE_JPEG, NOISE_PROGRESSIVE = encoded(NOISE_IMAGE, "JPEG"), encoded(NOISE_IMAGE, "JPEG", progressive=True)
RESTARTS = encoded(NOISE_IMAGE, "JPEG", restart_marker_blocks=1)
WEBP, LOSSLESS = encoded(RAMP_IMAGE, "WEBP"), encoded(RAMP_IMAGE, "WEBP", lossless=True)
ALPHA_WEBP = encoded(Image.fromarray(np.dstack([RAMP, GREY])), "WEBP")
_PHOTO = Image.fromarray(np.random.default_rng(2).integers(0, 256, (96, 128, 3), dtype=np.uint8))
PHOTO, PHOTO_PROGRESSIVE = encoded(_PHOTO, "JPEG"), encoded(_PHOTO, "JPEG", progressive=True)
_WHOLE = len(PNG) - 16
"""Bytes of the PNG up to the end of its pixels."""
_SVG = b'<?xml version="1.0"?>\n<!-- Made by hand -->\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "">\n<svg/>'
_WIDE_GIF = b"GIF89a" + b"\xff" * 4 + encoded(NOISE_IMAGE, "GIF")[10:]
_BMP_HEAD = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 10_000, 10_000, 1, 24, 0, 0, 0, 0, 0, 0)
_ROWS, _STREAM = unfiltered(NOISE), zlib.compress(unfiltered(NOISE))
_COMMENT = b"\xff\xfe\x00\x02"

# Name, bytes (or what builds them), how it is wrong, a part of what must be said of it.
_CASES: list[tuple[str, bytes | Callable[[], bytes], Fault, str]] = [
    # Next to nothing
    ("empty", b"", "malformed", "the file is empty, expected a JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC image"),
    ("PNG signature", PNG[:8], "malformed", "the PNG ends inside its header"),
    ("JPEG signature", JPEG[:2], "malformed", "the JPEG is cut off after 2 bytes"),
    ("WebP signature", WEBP[:12], "malformed", "the WebP ends inside its header"),
    ("JPEG signature and end", b"\xff\xd8\xff\xd9", "malformed", "lacks a part of its image"),
    ("first byte of a PNG", PNG[:1], "malformed", "the file is cut off after 1 bytes"),
    ("first byte of a JPEG", JPEG[:1], "malformed", "the file is cut off after 1 bytes"),
    ("first 5 bytes of a WebP", WEBP[:5], "malformed", "the file is cut off after 5 bytes"),
    # Other kinds of file, whatever their names
    ("random", np.random.default_rng(1).bytes(10_000), "unsupported", "the content is no image that is known here"),
    ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported", "this is an SVG, expected a JPEG, PNG,"),
    ("svg of a drawing program", _SVG, "unsupported", "this is an SVG, expected"),
    ("html", b"<!doctype html><title>cat.png</title>", "unsupported", "this is an HTML page, expected"),
    *[
        (f"{text[:5]!r} as text", text, "unsupported", "this is a text, expected")
        for text in (b"https://example.org/cat.png", b"data:image/png;base64,AAAA", b"file:///etc/passwd")
    ],
    *[
        (kind, encoded(RAMP_IMAGE, kind), "unsupported", f"this is {name}, expected")
        for kind, name in [
            ("TIFF", "a TIFF (or a camera's raw file)"),
            ("ICO", "an icon (ICO or CUR)"),
            ("EPS", "a PostScript file (EPS)"),
            ("PDF", "a PDF"),
            ("PPM", "a PNM"),
            ("TGA", "a TGA"),
            ("ICNS", "an icon (ICNS)"),
            ("DDS", "a DDS texture"),
            ("PCX", "a PCX"),
            ("JPEG2000", "a JPEG 2000"),
        ]
    ],
    *[
        (name, head + bytes(200), "unsupported", f"this is {name}, expected")
        for name, head in [
            ("a TIFF (or a camera's raw file)", b"MM\0*\0\0\0\x08"),
            ("a FITS", b"SIMPLE  =                    T"),
            ("a FlashPix or Office file", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
            ("a Photoshop file (PSD)", b"8BPS\0\1"),
            ("a JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
            ("a JPEG XL", b"\xff\x0a"),
            ("an MNG or JNG", b"\x8aMNG\r\n\x1a\n"),
            ("a sound", b"RIFF\xc8\0\0\0WAVEfmt "),
            ("an AVI video", b"RIFF\xc8\0\0\0AVI LIST"),
            ("an MP4 or QuickTime video", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"),
            ("a Matroska or WebM video", b"\x1aE\xdf\xa3"),
            ("a camera's raw file", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"),
            ("a ZIP archive", b"PK\3\4"),
            ("a GIMP file (XCF)", b"gimp xcf v011\0"),
            ("a QOI", b"qoif"),
        ]
    ],
    ("AVIF cut", b"\0\0\0\x1cftypavif" + bytes(200), "malformed", "the AVIF can't be decoded"),
    ("HEIC cut", b"\0\0\0\x18ftypheic" + bytes(200), "malformed", "the HEIC can't be decoded"),
    ("GIF cut", encoded(NOISE_IMAGE, "GIF")[:-300], "malformed", "the GIF can't be decoded"),
    ("BMP cut", encoded(NOISE_IMAGE, "BMP")[:-300], "malformed", "the BMP can't be decoded"),
    ("BMP signature", b"BM", "malformed", "the BMP can't be decoded"),
    ("GIF of 65,535 squared", _WIDE_GIF, "too_large", "the GIF is 65535x65535, at most"),
    ("BMP of 10,000 squared", _BMP_HEAD, "too_large", "the BMP is 10000x10000, at most 50,000,000 pixels"),
    # PNG: cut
    *[(f"PNG cut {n}", cut, "malformed", "the PNG") for n, cut in enumerate(cut_at_chunks(PNG)) if len(cut) < _WHOLE],
    # PNG: checksums, and pixels that are damaged whatever checksums say
    ("PNG, wrong checksum of IHDR", flipped(PNG, 32), "malformed", "header is missing or damaged"),
    ("PNG, damaged pixels", flipped(PNG, 200), "malformed", "the PNG can't be decoded (broken data stream"),
    ("PNG, no zlib", png_of_stream(b"no zlib"), "malformed", "the PNG can't be decoded (broken data stream"),
    ("PNG, no pixels", PNG[:33] + chunk(b"IEND", b""), "malformed", "the PNG can't be decoded"),
    ("PNG, stream cut", png_of_stream(_STREAM[: len(_STREAM) // 2]), "malformed", "image file is truncated"),
    ("PNG, damaged stream", png_of_stream(flipped(_STREAM, 500)), "malformed", "broken data stream"),
    ("PNG, stream's checksum wrong", png_of_stream(flipped(_STREAM, -1)), "malformed", "broken data stream"),
    ("PNG, dictionary wanted", png_of_stream(b"\x78\xbb" + bytes(40)), "malformed", "the PNG can't be decoded"),
    ("PNG, row short", png(32, 32, 8, 2, _ROWS[:-1]), "malformed", "image file is truncated"),
    ("PNG, filter 9", png(32, 32, 8, 2, _ROWS[:970] + b"\x09" + _ROWS[971:]), "malformed", "the PNG can't be decoded"),
    ("PNG, no palette", png(4, 4, 8, 3, bytes(20)), "malformed", "palette is missing"),
    ("PNG, palette of 5 bytes", png(4, 4, 8, 3, bytes(20), extra=chunk(b"PLTE", bytes(5))), "malformed", "palette is"),
    # PNG: headers that can't be
    ("PNG 0x0", png(0, 0, 8, 2, b""), "malformed", "header is not valid (0x0"),
    ("PNG 0x5", png(0, 5, 8, 2, bytes(5)), "malformed", "header is not valid (0x5"),
    ("PNG 5x0", png(5, 0, 8, 2, b""), "malformed", "header is not valid (5x0"),
    ("PNG of depth 3", png(5, 5, 3, 2, bytes(100)), "malformed", "depth 3"),
    ("PNG of depth 4 RGB", png(5, 5, 4, 2, bytes(100)), "malformed", "depth 4"),
    ("PNG of type 7", png(5, 5, 8, 7, bytes(100)), "malformed", "type 7"),
    ("PNG of interlace 2", png(5, 5, 8, 2, bytes(100), interlace=2), "malformed", "header is not valid"),
    ("PNG with two headers", PNG[:33] + PNG[8:], "malformed", "has two headers"),
    ("PNG with a text first", PNG[:8] + chunk(b"tEXt", b"a\0b") + PNG[8:], "malformed", "header is missing or damaged"),
    ("PNG header of 12 bytes", PNG[:8] + chunk(b"IHDR", PNG[16:28]) + PNG[33:], "malformed", "header is missing"),
    ("PNG, unknown critical chunk", PNG[:33] + chunk(b"ABCD", b"") + PNG[33:], "malformed", "b'ABCD', which is not"),
    ("PNG sent as text", PNG.replace(b"\r\n", b"\n"), "malformed", "signature is damaged, as by a transfer as text"),
    # PNG: floods and bombs
    (
        "PNG of 100,000 texts",
        lambda: png(32, 32, 8, 2, _ROWS, extra=chunk(b"tEXt", b"a\0b") * 100_000),
        "malformed",
        "more than 10,000 chunks",
    ),
    ("PNG 50,000x50,000", png(50_000, 50_000, 8, 2, bytes(200)), "too_large", "the PNG is 50000x50000, at most"),
    ("PNG 2^31 wide", png(2**31, 1, 8, 2, bytes(200)), "too_large", "at most 50,000,000 pixels are accepted"),
    ("PNG of 50.005 Mpx", png(10_001, 5_000, 8, 2, bytes(200)), "too_large", "the PNG is 10001x5000, at most"),
    ("PNG 7,000x7,000 of 200 bytes", png(7_000, 7_000, 8, 2, bytes(200)), "malformed", "image file is truncated"),
    # JPEG: cut, with and without an end put on again
    ("JPEG cut in half", NOISE_JPEG[: len(NOISE_JPEG) // 2], "malformed", "the JPEG's data end before its image"),
    ("JPEG cut and ended", NOISE_JPEG[:-400] + b"\xff\xd9", "malformed", "the JPEG's data end before its image"),
    ("JPEG cut in a restart interval", RESTARTS[: len(RESTARTS) // 2], "malformed", "the JPEG's data end before its"),
    (
        "progressive without its last scan's data",
        PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")],
        "malformed",
        "cut off",
    ),
    ("progressive cut and ended", cut_progressive, "malformed", "lacks a part of its image"),
    ("progressive cut in its last scan", PHOTO_PROGRESSIVE[:-2000], "malformed", "data end before its image does"),
    ("JPEG without data", jpeg_without(0xDA, 0) + b"\xff\xd9", "malformed", "lacks a part of its image"),
    ("progressive without chrominance", one_component_missing, "malformed", "lacks a part of its image"),
    # JPEG: parts that contradict each other
    ("two SOFs", jpeg_with(lambda m, b: b * 2 if m == 0xC0 else b), "malformed", "has two frame headers"),
    (
        "two SOFs, one progressive",
        jpeg_with(lambda m, b: b + b"\xff\xc2" + b[2:] if m == 0xC0 else b),
        "malformed",
        "has two frame headers",
    ),
    (
        "another SOF between the scans",
        lambda: PROGRESSIVE[:-2] + dict(segments(PROGRESSIVE))[0xC2] + PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") :],
        "malformed",
        "has two frame headers",
    ),
    ("SOF wider than the scan", jpeg_of_size(64, 32, NOISE_JPEG), "malformed", "data end before its image does"),
    ("SOF higher than the scan", jpeg_of_size(32, 64, NOISE_JPEG), "malformed", "data end before its image does"),
    ("SOF narrower than the scan", jpeg_of_size(16, 32, NOISE_JPEG), "malformed", "data are those of a larger image"),
    ("SOF lower than the scan", jpeg_of_size(32, 16, NOISE_JPEG), "malformed", "data are those of a larger image"),
    ("progressive SOF wider", jpeg_of_size(640, 32, PROGRESSIVE), "malformed", "data end before its image does"),
    ("scan before the frame", jpeg_without(0xC0), "malformed", "coded data before its frame header"),
    ("JPEG 0 wide", jpeg_of_size(0, 32), "malformed", "frame header is not valid (0x32"),
    ("JPEG 0 high", jpeg_of_size(32, 0), "malformed", "frame header is not valid (32x0"),
    (
        "SOF of 7 bytes",
        b"\xff\xd8\xff\xc0\0\x09\x08\0\x20\0\x20\x03\x01" + JPEG[2:],
        "malformed",
        "header is not valid",
    ),
    ("12 bits", jpeg_with(lambda m, b: flipped(b, 4, 4) if m == 0xC0 else b), "malformed", "12 bits"),
    (
        "scan of an unknown component",
        jpeg_with(lambda m, b: flipped(b, 5, 64) if m == 0xDA else b),
        "malformed",
        "JPEG",
    ),
    # JPEG: parts that are missing
    ("no DHT, progressive", jpeg_without(0xC4, data=PROGRESSIVE), "malformed", "the JPEG can't be decoded"),
    ("no DQT", jpeg_without(0xDB), "malformed", "the JPEG can't be decoded"),
    (
        "DHT cut",
        jpeg_with(lambda m, b: b[:2] + b"\0\x05" + b[4:7] if m == 0xC4 else b),
        "malformed",
        "the JPEG can't be",
    ),
    # JPEG: rare ways
    *[
        (f"SOF {marker:02X}", jpeg_as_frame(marker), "malformed", f"(marker {marker:02X}: arithmetic, lossless or")
        for marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
    ],
    ("arithmetic conditioning", jpeg_before(0xC0, b"\xff\xcc\0\4\0\0"), "malformed", "has a part (marker CC)"),
    ("DNL", jpeg_before(0xC0, b"\xff\xdc\0\4\0\x20"), "malformed", "has a part (marker DC)"),
    ("hierarchical", jpeg_before(0xC0, b"\xff\xde\0\2"), "malformed", "has a part (marker DE)"),
    # JPEG: floods
    ("100,000 comments", jpeg_before(0xC0, _COMMENT * 100_000), "malformed", "has more than 2,000 parts"),
    ("100,000 restarts", jpeg_before(0xC0, b"\xff\xd0" * 100_000), "malformed", "has more than 2,000 parts"),
    ("2 MB of padding", b"\xff\xd8" + b"\xff" * 2_000_000, "malformed", "the JPEG is cut off"),
    ("1,000 scans", many_scans, "malformed", "has more than 50 scans"),
    ("no marker", b"\xff\xd8\xff\xe0\0\2 no marker", "malformed", "the JPEG is cut off"),
    ("part of length 0", b"\xff\xd8\xff\xe0\0\0" + JPEG[2:], "malformed", "a part of 0 bytes, expected at least 2"),
    ("part past the end", b"\xff\xd8\xff\xe0\xff\xff" + JPEG[2:], "malformed", "the JPEG is cut off"),
    ("JPEG 65,500x65,500", jpeg_of_size(65_500, 65_500), "too_large", "the JPEG is 65500x65500, at most"),
    ("JPEG of 100.1 Mpx", jpeg_of_size(10_010, 10_000), "too_large", "at most 100,000,000 pixels are accepted"),
    # WebP: cut and damaged
    ("WebP cut in half", WEBP[: len(WEBP) // 2], "malformed", "the WebP can't be decoded"),
    ("WebP without its last byte", WEBP[:-1], "malformed", "the WebP can't be decoded"),
    ("RIFF of 4 GB", riff(*webp_chunks(WEBP), length=2**32 - 10), "malformed", "the WebP can't be decoded"),
    ("RIFF of 0 bytes", riff(*webp_chunks(WEBP), length=0), "malformed", "the WebP can't be decoded"),
    ("RIFF too short", riff(*webp_chunks(WEBP), length=len(WEBP) - 30), "malformed", "the WebP can't be decoded"),
    ("chunk of 4 GB", WEBP[:16] + b"\xff\xff\xff\xff" + WEBP[20:], "malformed", "the WebP can't be decoded"),
    ("chunk of 0 bytes", riff((b"VP8 ", b"")), "malformed", "the WebP"),
    *[
        (f"{name} cut, sizes mended", riff(*[(n, b[: len(b) // 2]) for n, b in webp_chunks(data)]), "malformed", "WebP")
        for name, data in [
            ("WebP", encoded(NOISE_IMAGE, "WEBP")),
            ("lossless", encoded(NOISE_IMAGE, "WEBP", lossless=True)),
        ]
    ],
    (
        "alpha cut, sizes mended",
        riff(*[(n, b[:3] if n == b"ALPH" else b) for n, b in webp_chunks(ALPHA_WEBP)]),
        "malformed",
        "the WebP can't be decoded",
    ),
    ("no image", riff(extended(0, 32, 32)), "malformed", "the WebP can't be decoded"),
    ("canvas of another size", riff(extended(0, 31, 32), *webp_chunks(WEBP)), "malformed", "the WebP can't be"),
    (
        "unknown chunk first",
        riff((b"ABCD", bytes(20)), *webp_chunks(WEBP)),
        "malformed",
        "the WebP ends inside its head",
    ),
    ("100,000 chunks", lambda: riff(extended(0, 32, 32), *[(b"ABCD", b"")] * 10**5), "malformed", "WebP can't be"),
    ("canvas of 2^24", riff(extended(0, 2**24, 2**24)), "too_large", "the WebP is 16777216x16777216, at most"),
    (
        "WebP 16,383x16,383",
        riff((b"VP8 ", bytes(6) + struct.pack("<HH", 16_383, 16_383))),
        "too_large",
        "the WebP is 16383x16383, at most",
    ),
    (
        "lossless 16,384x16,384",
        riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(9))),
        "too_large",
        "the WebP is 16384x16384",
    ),
    # More bytes than are accepted
    (
        "a byte too many",
        lambda: padded(PNG, MAX_BYTES + 1),
        "too_large",
        "has more than 26,214,400 bytes, at most 25 MiB",
    ),
]

HOSTILE: dict[str, tuple[bytes | Callable[[], bytes], Fault]] = {
    name: (content, fault) for name, content, fault, _ in _CASES
}
"""By name: the file, or what builds it, and which kind of wrong it is."""

FRAGMENTS: dict[str, str] = {name: fragment for name, _, _, fragment in _CASES}
"""By name: a part of what must be said of the file."""

GOOD: dict[str, bytes | Callable[[], bytes]] = {
    "PNG": PNG,
    "1x1": encoded(Image.fromarray(NOISE[:1, :1])),
    "65,535x1": lambda: png(65_535, 1, 8, 2, bytes(1 + 3 * 65_535)),
    "1x65,535": lambda: png(1, 65_535, 8, 2, bytes(4 * 65_535)),
    "JPEG 65,500x1": lambda: encoded(Image.new("RGB", (65_500, 1)), "JPEG"),
    "as many bytes as are accepted": lambda: padded(PNG, MAX_BYTES),
    "garbage after the end": PNG + b"garbage",
    **{f"PNG cut {n} behind its pixels": cut for n, cut in enumerate(cut_at_chunks(PNG)) if len(cut) >= _WHOLE},
    "PNG, wrong checksum of IDAT": flipped(PNG, -13),
    "PNG, wrong checksum of IEND": flipped(PNG, -1),
    "PNG, stream's checksum cut": png_of_stream(_STREAM[:-2]),
    "PNG, row long": png(32, 32, 8, 2, _ROWS + b"\0"),
    "PNG bomb of 1x1": lambda: png_of_stream(zlib.compress(bytes(2**26), 9)).replace(
        PNG[8:33], png(1, 1, 8, 2, b"")[8:33]
    ),
    "APNG": animation("PNG", 3),
    "MPO": animation("MPO", 2),
    "GIF": encoded(RAMP_IMAGE, "GIF"),
    "animated GIF": lambda: animation("GIF", 500),
    "animated WebP": lambda: animation("WEBP", 500),
    "BMP": encoded(RAMP_IMAGE, "BMP"),
    "AVIF": encoded(RAMP_IMAGE, "AVIF"),
    "grey": GREY_PNG,
    "grey with alpha": encoded(Image.fromarray(np.dstack([GREY, GREY.T]))),
    "1 bit": encoded(RAMP_IMAGE.convert("1")),
    "palette with transparency": encoded(RAMP_IMAGE.quantize(16), transparency=bytes(range(0, 256, 16))),
    "16-bit grey": encoded(Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16-bit RGB": png(32, 32, 16, 2, unfiltered(RAMP.astype(">u2") * 257)),
    "RGBA": encoded(Image.fromarray(np.dstack([NOISE, GREY]))),
    "9,000 texts": lambda: png(32, 32, 8, 2, _ROWS, extra=chunk(b"tEXt", b"a\0b") * 9_000),
    "JPEG": JPEG,
    "progressive JPEG": PROGRESSIVE,
    "grey JPEG": encoded(GREY_IMAGE, "JPEG"),
    "JPEG with restarts": RESTARTS,
    "CMYK JPEG": encoded(RAMP_IMAGE.convert("CMYK"), "JPEG", quality=95),
    "YCCK JPEG": ycck(),
    "RGB JPEG": encoded(RAMP_IMAGE, "JPEG", keep_rgb=True),
    "JPEG, zeros before the end": NOISE_JPEG[:-2] + bytes(500) + NOISE_JPEG[-2:],
    "JPEG, garbage after the end": NOISE_JPEG + b"garbage",
    "JPEG without its end": JPEG[:-2],
    "JPEG without its last byte": JPEG[:-1],
    "JPEG without its end, comments instead": lambda: JPEG[:-2] + _COMMENT * 100_000,
    "JPEG without its end, padding instead": lambda: JPEG[:-2] + b"\xff" * 2_000_000,
    "JPEG, restarts before the end": RESTARTS[:-2] + b"\xff\xd0" * 100_000 + b"\xff\xd9",
    "JPEG with two starts": b"\xff\xd8" + JPEG,
    "JPEG without Huffman tables": jpeg_without(0xC4),
    "JPEG of JFIF 0.00": JPEG.replace(b"JFIF\0\1\1", b"JFIF\0\0\0"),
    "JPEG, padding before markers": jpeg_with(lambda m, b: (b"\xff" * 9 if m else b"") + b),
    "JPEG, odd numbers in the scan header": jpeg_with(lambda m, b: b[:-3] + bytes(3) if m == 0xDA else b),
    "WebP": WEBP,
    "lossless WebP": LOSSLESS,
    "WebP with alpha": ALPHA_WEBP,
    "WebP, garbage after the end": WEBP + b"garbage",
    **{
        f"{kind}, orientation {orientation}": taken(kind, orientation)
        for kind in ("PNG", "JPEG", "WEBP")
        for orientation in range(1, 9)
    },
}
"""By name: the file, or what builds it."""

assert len(HOSTILE) == len(_CASES), "two cases have the same name"


def content_of(case: bytes | Callable[[], bytes]) -> bytes:
    return case if isinstance(case, bytes) else case()
