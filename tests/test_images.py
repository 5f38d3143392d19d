import contextlib
import io
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lit.data.images import decode, to_network_size
from cifar_lit.errors import ImageError

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
RAMP = np.stack([*np.mgrid[0:32, 0:32] * 8, np.full((32, 32), 90)], axis=2).astype(np.uint8)
GREY = RAMP[:, :, 1]
RAMP_IMAGE, GREY_IMAGE = Image.fromarray(RAMP), Image.fromarray(GREY)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, interlace: int = 0, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def unfiltered(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def over_white(image: Image.Image) -> np.ndarray:
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[:, :, 3:] / 255
    return (rgba[:, :, :3] * alpha + 255 * (1 - alpha)).round()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # Colour types of PNG
        (encoded(Image.fromarray(NOISE)), NOISE),
        (encoded(GREY_IMAGE), GREY[:, :, None].repeat(3, axis=2)),
        (encoded(RAMP_IMAGE.convert("1")), np.asarray(RAMP_IMAGE.convert("1").convert("RGB"))),
        *[
            (encoded(image, bits=bits), np.asarray(image.convert("RGB")))
            for bits in (1, 2, 4, 8)
            for image in [RAMP_IMAGE.quantize(2**bits)]
        ],
        # 16 bits are scaled, not clipped
        (encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), GREY[:, :, None].repeat(3, axis=2)),
        (png(32, 32, 16, 2, unfiltered(RAMP.astype(">u2") * 257)), RAMP),
        # JPEG and WebP
        (encoded(RAMP_IMAGE, "WEBP", lossless=True), RAMP),
        *[
            (data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
            for image, options in [
                (RAMP_IMAGE, {}),
                (RAMP_IMAGE, {"progressive": True}),
                (GREY_IMAGE, {}),
                (RAMP_IMAGE.convert("CMYK"), {"quality": 95}),  # Pillow writes it Adobe-inverted
            ]
            for data in [encoded(image, "JPEG", **options)]
        ],
        # What follows the end of the picture is not looked at
        (encoded(Image.fromarray(NOISE)) + b"garbage", NOISE),
    ],
)
def test_colours_equal_the_reference(data: bytes, expected: np.ndarray) -> None:
    image = decode(data)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.fromarray(np.dstack([NOISE, GREY])), {}),
        (Image.fromarray(np.dstack([GREY, GREY.T])), {}),
        (RAMP_IMAGE.quantize(16), {"transparency": 3}),
        (RAMP_IMAGE.quantize(16), {"transparency": bytes(range(0, 256, 16)), "bits": 4}),
        (GREY_IMAGE, {"transparency": 80}),
        (RAMP_IMAGE, {"transparency": (80, 16, 90)}),
    ],
)
def test_transparency_of_a_png_is_laid_over_white(image: Image.Image, options: dict) -> None:
    data = encoded(image, **options)
    np.testing.assert_array_equal(decode(data), over_white(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(("depth", "scale"), [(2, 85), (4, 17), (16, 1)])
def test_transparent_grey_is_found_at_every_bit_depth(depth: int, scale: int) -> None:
    rows = {2: b"\0\x1b", 4: b"\0\x01\x23", 16: b"\0" + struct.pack(">4H", 0, 257, 514, 771)}[depth]
    number = 514 if depth == 16 else 2
    image = decode(png(4, 1, depth, 0, rows, extra=chunk(b"tRNS", struct.pack(">H", number))))
    assert image[0, :, 0].tolist() == [0, scale, 255, 3 * scale]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_colours_hidden_under_alpha_0_have_no_effect(kind: str) -> None:
    hidden = Image.fromarray(np.dstack([NOISE, np.zeros_like(GREY)]))
    assert (decode(encoded(hidden, kind, lossless=True, exact=True)) == 255).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_interlaced_png_equals_the_plain_one(depth: int) -> None:
    pixels = NOISE[:13, :11].astype(">u2") * 257 if depth == 16 else NOISE[:13, :11]
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(unfiltered(pixels[top::down, left::right]) for left, top, right, down in adam7)
    np.testing.assert_array_equal(decode(png(11, 13, depth, 2, rows, interlace=1)), NOISE[:13, :11])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    scene = Image.fromarray(np.kron(RAMP[:4, :3], np.ones((16, 16, 1), np.uint8)))
    # The transposition that each orientation undoes.
    names = [
        "",
        "FLIP_LEFT_RIGHT",
        "ROTATE_180",
        "FLIP_TOP_BOTTOM",
        "TRANSPOSE",
        "ROTATE_90",
        "TRANSVERSE",
        "ROTATE_270",
    ]
    stored = scene.transpose(Image.Transpose[names[orientation - 1]]) if orientation > 1 else scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif)
    np.testing.assert_allclose(decode(data).float(), np.asarray(scene), atol=0 if kind == "PNG" else 6)


JPEG, WEBP, PNG = encoded(RAMP_IMAGE, "JPEG"), encoded(RAMP_IMAGE, "WEBP"), encoded(Image.fromarray(NOISE))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty, expected a PNG, JPEG or WebP image"),
        (PNG[:8], "ends inside its header"),
        (JPEG[:2], "ends inside its header"),
        (WEBP[:12], "ends inside its header"),
        (b"\xff\xd8\xff\xda\x00\x02 no frame header", "no marker at byte 6"),
        # Not one of the three formats, whatever the name of the file
        (bytes(range(256)) * 40, "not a PNG, JPEG or WebP image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG or WebP image"),
        (b"https://example.org/cat.png", "not a PNG, JPEG or WebP image"),
        *[(encoded(RAMP_IMAGE, kind), "not a PNG, JPEG or WebP") for kind in ("GIF", "BMP", "TIFF", "ICO", "PDF")],
        # Several frames
        *[
            (encoded(RAMP_IMAGE, kind, save_all=True, append_images=[GREY_IMAGE.convert("RGB")]), "several frames")
            for kind in ("PNG", "WEBP", "MPO")
        ],
        # Headers that can't be
        (png(0, 0, 8, 2, b""), r"header is not valid \(0x0"),
        (png(0, 5, 8, 2, b"\0" * 5), r"header is not valid \(0x5"),
        (png(5, 5, 3, 2, bytes(100)), "header is not valid .*depth 3"),
        (png(5, 5, 8, 7, bytes(100)), "header is not valid .*type 7"),
        (png(5, 5, 8, 2, bytes(100), interlace=2), "header is not valid"),
        (PNG[:33] + PNG[8:], "header is not valid"),
        (png(4, 4, 8, 3, bytes(20)), "palette is missing"),
        # Pixels that libpng fails on
        (png(32, 32, 8, 2, unfiltered(RAMP)[:-1]), "ends after 3,103 of 3,104 bytes of pixels"),
        (png(32, 32, 8, 2, unfiltered(RAMP)[:970] + b"\x09" + unfiltered(RAMP)[971:]), "a row has filter 9"),
        (PNG[:33] + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b""), "pixels are damaged"),
        (PNG[:33] + chunk(b"IEND", b""), "ends after 0 of 3,104 bytes"),
        *[
            (PNG[:place] + bytes([PNG[place] ^ 1]) + PNG[place + 1 :], "wrong checksum")
            for place in (32, len(PNG) - 13)  # of the header, of the pixels
        ],
        (PNG[:-1] + b"\0", "wrong checksum"),
        (png(32, 32, 8, 2, unfiltered(RAMP), extra=chunk(b"tEXt", b"a\0b") * 20_000), "more than 10,000 chunks"),
    ],
)
def test_what_is_no_sound_picture_raises(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode(data)


@pytest.mark.parametrize(
    "whole",
    [
        PNG,
        encoded(RAMP_IMAGE.quantize(16), transparency=3),
        JPEG,
        encoded(RAMP_IMAGE, "JPEG", progressive=True),
        WEBP,
        encoded(RAMP_IMAGE, "WEBP", lossless=True),
    ],
)
def test_a_picture_cut_at_any_byte_raises(whole: bytes) -> None:
    decode(whole)
    for end in [*range(min(len(whole), 800)), *range(len(whole) - 40, len(whole))]:
        with pytest.raises(ImageError):
            decode(whole[:end])


@pytest.mark.parametrize(
    "data",
    [
        png(50_000, 50_000, 8, 2, bytes(200)),
        png(65_535, 1, 8, 2, bytes(200)),
        png(4_001, 4_000, 8, 2, bytes(200)),
        b"\xff\xd8\xff\xff\xc0\x00\x11\x08" + struct.pack(">HH", 65_000, 65_000) + bytes(40),
        b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff\xff\xff" * 2,
        b"RIFF\0\0\0\0WEBPVP8L" + struct.pack("<IBI", 10, 0x2F, 0x0FFFFFFF),
        b"RIFF\0\0\0\0WEBPVP8 " + struct.pack("<I", 10) + bytes(6) + struct.pack("<HH", 16_383, 16_383),
    ],
)
def test_oversize_is_refused_from_the_header(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ImageError, match="at most 16,000,000 pixels and 8,192 a side are accepted"):
        decode(data)
    assert time.perf_counter() - start < 0.05


def test_a_large_claim_with_few_pixels_is_refused_before_the_picture_is_allocated() -> None:
    with pytest.raises(ImageError, match="ends after 200 of 48,004,000 bytes of pixels"):
        decode(png(4_000, 4_000, 8, 2, bytes(200)))


@pytest.mark.parametrize("whole", [PNG, JPEG, WEBP])
def test_random_damage_never_ends_the_process(whole: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(2, len(data), 3):
            data[place] = rng.integers(256)
        with contextlib.suppress(ImageError):
            assert decode(bytes(data)).shape[2] == 3


def test_random_pixel_streams_with_right_checksums_never_end_the_process() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height, depth, colour = (
            int(rng.choice(n)) for n in ([1, 7, 32], [1, 9], [1, 2, 4, 8, 16], [0, 2, 3, 4, 6])
        )
        extra = chunk(b"PLTE", rng.bytes(int(rng.integers(1, 5)) * 3)) + chunk(b"tRNS", rng.bytes(int(rng.integers(7))))
        rows = bytes(rng.integers(0, 5, rng.integers(1, 4000), dtype=np.uint8))
        with contextlib.suppress(ImageError):
            image = decode(png(width, height, depth, colour, rows, int(rng.integers(2)), extra))
            assert image.shape == (height, width, 3)


def test_to_network_size_is_the_identity_for_32x32() -> None:
    assert torch.equal(to_network_size(decode(PNG)), torch.from_numpy(NOISE))


def test_to_network_size_takes_the_central_square() -> None:
    wide = torch.zeros(32, 64, 3, dtype=torch.uint8)
    wide[:, 16:48] = torch.from_numpy(NOISE)
    assert torch.equal(to_network_size(wide), torch.from_numpy(NOISE))
    assert torch.equal(to_network_size(wide.transpose(0, 1)), torch.from_numpy(NOISE).transpose(0, 1))


def test_to_network_size_averages_instead_of_dropping_pixels() -> None:
    checks = torch.zeros(128, 128, 3, dtype=torch.uint8)
    checks[::2, ::2], checks[1::2, 1::2] = 255, 255
    assert (to_network_size(checks).float() - 127.5).abs().max() < 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (33, 31), (300, 200)])
def test_to_network_size_gives_32x32_for_any_size(height: int, width: int) -> None:
    image = to_network_size(torch.full((height, width, 3), 77, dtype=torch.uint8))
    assert (image.shape, image.dtype) == ((32, 32, 3), torch.uint8)
    assert image.is_contiguous()
    assert (image == 77).all()
