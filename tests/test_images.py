import contextlib
import io
import struct
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from camera_images import BASES, IMAGES, TOLERANCE
from hostile_images import (
    ALPHA_WEBP,
    FRAGMENTS,
    GOOD,
    GREY,
    GREY_IMAGE,
    HOSTILE,
    JPEG,
    LOSSLESS,
    NOISE,
    NOISE_JPEG,
    NOISE_PROGRESSIVE,
    PHOTO,
    PHOTO_PROGRESSIVE,
    PNG,
    RAMP,
    RAMP_IMAGE,
    RESTARTS,
    SCENE,
    WEBP,
    chunk,
    content_of,
    encoded,
    jpeg_of_size,
    jpeg_without,
    padded,
    png,
    taken,
    unfiltered,
    ycck,
)
from PIL import Image

from cifar_lit.data.images import MAX_BYTES, Decoded, decode, encode_png
from cifar_lit.data.orientation import orientation as orientation_of
from cifar_lit.errors import ImageError


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
            for data in [encoded(image, "JPEG", **options)]  # type: ignore[arg-type]
        ],
        # What follows the end of the image is not looked at
        (encoded(Image.fromarray(NOISE)) + b"garbage", NOISE),
    ],
)
def test_colours_equal_the_reference(data: bytes, expected: np.ndarray) -> None:
    image = decode(data).pixels
    assert image.dtype == np.uint8
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
def test_transparency_of_a_png_is_laid_over_white(image: Image.Image, options: dict[str, Any]) -> None:
    data = encoded(image, **options)
    np.testing.assert_array_equal(decode(data).pixels, over_white(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(("depth", "scale"), [(2, 85), (4, 17), (16, 1)])
def test_transparent_grey_is_found_at_every_bit_depth(depth: int, scale: int) -> None:
    rows = {2: b"\0\x1b", 4: b"\0\x01\x23", 16: b"\0" + struct.pack(">4H", 0, 257, 514, 771)}[depth]
    number = 514 if depth == 16 else 2
    image = decode(png(4, 1, depth, 0, rows, extra=chunk(b"tRNS", struct.pack(">H", number)))).pixels
    assert image[0, :, 0].tolist() == [0, scale, 255, 3 * scale]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_colours_hidden_under_alpha_0_have_no_effect(kind: str) -> None:
    hidden = Image.fromarray(np.dstack([NOISE, np.zeros_like(GREY)]))
    assert (decode(encoded(hidden, kind, lossless=True, exact=True)).pixels == 255).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_interlaced_png_equals_the_plain_one(depth: int) -> None:
    pixels = NOISE[:13, :11].astype(">u2") * 257 if depth == 16 else NOISE[:13, :11]
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(unfiltered(pixels[top::down, left::right]) for left, top, right, down in adam7)
    np.testing.assert_array_equal(decode(png(11, 13, depth, 2, rows, interlace=1)).pixels, NOISE[:13, :11])


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"subsampling": 0}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, options: dict[str, Any], orientation: int) -> None:
    image = decode(taken(kind, orientation, **options)).pixels.astype(float)
    np.testing.assert_allclose(image, SCENE, atol=6 if kind == "JPEG" else 0)


def test_every_orientation_of_a_scene_gives_the_same_pixels() -> None:
    # JPEG at quality 100 without subsampling, of flat squares: what rounding is left does not depend on the direction.
    kinds: dict[str, Any] = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    for kind, options in kinds.items():
        images = [decode(taken(kind, orientation, **options)).network_pixels for orientation in range(1, 9)]
        assert all(np.array_equal(image, images[0]) for image in images), kind


@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        (b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0), 6),
        (b"Exif\0\0MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0), 6),
        (b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 4, 1, 6), 6),
        # Damaged, or another meaning: upright
        (b"", 1),
        (b"II", 1),
        (b"XX*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0), 1),
        (b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 9, 0), 1),
        (b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 0, 0), 1),
        (b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 2, 1, 6, 0), 1),
        (b"II*\0" + struct.pack("<IHHHI", 8, 60_000, 0x0100, 3, 1), 1),
        (b"II*\0" + struct.pack("<I", 2**32 - 1), 1),
    ],
)
def test_orientation_is_read_from_exif(block: bytes, orientation: int) -> None:
    assert orientation_of(block) == orientation


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_sound_image_raises(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, fault = HOSTILE[name]
    data = content_of(content)
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.fault == fault
    assert FRAGMENTS[name] in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_image_is_decoded(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    image = decode(content_of(GOOD[name])).network_pixels
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    assert capfd.readouterr().err == ""


def test_as_many_bytes_as_are_accepted_are_decoded_and_one_more_is_not() -> None:
    np.testing.assert_array_equal(decode(padded(PNG, MAX_BYTES)).pixels, NOISE)
    with pytest.raises(ImageError, match="has more than 26,214,400 bytes, at most 25 MiB are accepted") as caught:
        decode(padded(PNG, MAX_BYTES + 1))
    assert caught.value.fault == "too_large"


@pytest.mark.parametrize("whole", [PNG, encoded(RAMP_IMAGE.quantize(16), transparency=3), WEBP, LOSSLESS, ALPHA_WEBP])
def test_a_file_cut_at_any_byte_is_malformed_or_gives_all_its_pixels(whole: bytes) -> None:
    expected = decode(whole).pixels
    num_whole = 0
    for end in range(len(whole)):
        with contextlib.suppress(ImageError):
            np.testing.assert_array_equal(decode(whole[:end]).pixels, expected)
            num_whole += 1
    assert num_whole <= 4 + 16 + 8  # a PNG's last checksums, and its end


def decoded_cuts(whole: bytes, end_marker: bytes = b"") -> dict[int, float]:
    """How a JPEG that lacks so many bytes differs from the whole one in the mean, of those that are decoded."""
    expected = decode(whole).pixels.astype(int)
    step = 1 if len(whole) < 4_000 else 23
    found = {}
    for lost in [*range(1, 60), *range(60, len(whole), step)]:
        with contextlib.suppress(ImageError):
            found[lost] = np.abs(decode(whole[:-lost] + end_marker).pixels - expected).mean()
    return found


@pytest.mark.parametrize("whole", [JPEG, NOISE_JPEG, RESTARTS, NOISE_PROGRESSIVE, PHOTO, PHOTO_PROGRESSIVE])
def test_a_jpeg_cut_at_any_byte_lacks_its_last_rows_at_most_or_is_refused(whole: bytes) -> None:
    found = decoded_cuts(whole)
    assert found[1] == found[2] == 0
    assert max(found.values()) < 3
    assert max(found) < len(whole) / 12


@pytest.mark.parametrize("whole", [NOISE_JPEG, RESTARTS, PHOTO])
def test_a_jpeg_cut_and_ended_lacks_a_few_bytes_at_most_or_is_refused(whole: bytes) -> None:
    assert max(decoded_cuts(whole, b"\xff\xd9")) < 40


@pytest.mark.parametrize(
    "data",
    [
        encoded(RAMP_IMAGE.convert("CMYK"), "JPEG", quality=95),
        jpeg_without(0xEE, data=encoded(RAMP_IMAGE.convert("CMYK"), "JPEG", quality=95)),
        ycck(),
        encoded(RAMP_IMAGE, "JPEG", quality=95, keep_rgb=True),
    ],
)
def test_colours_of_print_jpegs_equal_the_reference(data: bytes) -> None:
    image = decode(data).pixels.astype(float)
    np.testing.assert_allclose(image, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), atol=2)
    assert np.abs(image - RAMP).mean() < 6


@pytest.mark.parametrize(
    "data",
    [
        png(50_000, 50_000, 8, 2, bytes(200)),
        png(10_001, 5_000, 8, 2, bytes(200)),
        jpeg_of_size(65_500, 65_500),
        b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff\xff\xff" * 2,
        b"RIFF\0\0\0\0WEBPVP8L" + struct.pack("<IBI", 10, 0x2F, 0x0FFFFFFF),
        b"RIFF\0\0\0\0WEBPVP8 " + struct.pack("<I", 10) + bytes(6) + struct.pack("<HH", 16_383, 16_383),
    ],
)
def test_oversize_is_refused_from_the_header(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ImageError, match="at most (50,000,000|100,000,000) pixels are accepted"):
        decode(data)
    assert time.perf_counter() - start < 0.05


def test_a_refusal_from_the_header_allocates_nothing() -> None:
    data = png(50_000, 50_000, 8, 2, bytes(200))
    tracemalloc.start()
    with pytest.raises(ImageError, match="the PNG is 50000x50000"):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_large_claim_with_few_pixels_is_refused_before_the_image_is_allocated() -> None:
    with pytest.raises(ImageError, match="image file is truncated"):
        decode(png(7_000, 7_000, 8, 2, bytes(200)))


@pytest.mark.parametrize("whole", [PNG, JPEG, NOISE_PROGRESSIVE, RESTARTS, WEBP, LOSSLESS, ALPHA_WEBP])
def test_random_damage_never_ends_the_process(whole: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(2, len(data), 3):
            data[place] = rng.integers(256)
        with contextlib.suppress(ImageError):
            assert decode(bytes(data)).pixels.shape[2] == 3


def test_random_pixel_streams_with_right_checksums_never_end_the_process() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height, depth, colour = (
            int(rng.choice(n)) for n in ([1, 7, 32], [1, 9], [1, 2, 4, 8, 16], [0, 2, 3, 4, 6])
        )
        extra = chunk(b"PLTE", rng.bytes(int(rng.integers(1, 5)) * 3)) + chunk(b"tRNS", rng.bytes(int(rng.integers(7))))
        rows = bytes(rng.integers(0, 5, rng.integers(1, 4000), dtype=np.uint8))
        with contextlib.suppress(ImageError):
            image = decode(png(width, height, depth, colour, rows, int(rng.integers(2)), extra)).pixels
            assert image.shape == (height, width, 3)


def at_network_size(pixels: np.ndarray) -> np.ndarray:
    return Decoded(Image.fromarray(pixels)).network_pixels


def test_a_32x32_image_stays_as_it_is() -> None:
    np.testing.assert_array_equal(decode(PNG).network_pixels, NOISE)


def test_the_network_gets_the_central_square() -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = NOISE
    np.testing.assert_array_equal(at_network_size(wide), NOISE)
    np.testing.assert_array_equal(at_network_size(wide.transpose(1, 0, 2)), NOISE.transpose(1, 0, 2))


def test_resizing_averages_instead_of_dropping_pixels() -> None:
    checks = np.zeros((128, 128, 3), np.uint8)
    checks[::2, ::2], checks[1::2, 1::2] = 255, 255
    assert np.abs(at_network_size(checks) - 127.5).max() < 2


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 500), (33, 31), (300, 200), (1, 65_535), (65_535, 1), (8_192, 2)]
)
def test_the_network_gets_32x32_of_any_size(height: int, width: int) -> None:
    image = at_network_size(np.full((height, width, 3), 77, np.uint8))
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    assert (image == 77).all()


@pytest.mark.parametrize(("height", "width"), [(96, 1_000), (1_000, 96), (64, 64), (300, 451)])
def test_resizing_equals_pillows_antialiasing(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    expected = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(at_network_size(pixels) - expected).mean() <= 1


def test_resizing_keeps_the_mean_colour_of_every_place() -> None:
    # A slope keeps its value at every place under any symmetric average, but for the edges.
    slope = np.linspace(0, 255, 320)[None, :, None].repeat(320, axis=0).repeat(3, axis=2)
    image = at_network_size(slope.round().astype(np.uint8))
    expected = slope.reshape(32, 10, 32, 10, 3).mean(axis=(1, 3))
    assert np.abs(image - expected)[:, 1:-1].max() < 1.5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_large_image_comes_reduced_and_not_below_256(kind: str) -> None:
    scene = Image.fromarray(SCENE[:48]).resize((1_536, 1_536), Image.Resampling.BICUBIC)
    image = decode(encoded(scene, kind)).image
    assert image.size == ((384, 384) if kind == "JPEG" else (256, 256))  # JPEG: half, a quarter or an eighth
    assert decode(encoded(scene.resize((700, 511)), kind)).image.size == (700, 511)


def test_a_large_transparent_image_is_laid_over_white() -> None:
    left = np.arange(32) < 16
    pixels = np.dstack([NOISE, np.where(left, 0, 255)[None].repeat(32, 0).astype(np.uint8)])
    large = Image.fromarray(pixels.repeat(40, axis=0).repeat(40, axis=1))
    found = decode(encoded(large, compress_level=1)).image.resize((32, 32), Image.Resampling.BOX)
    expected = np.where(left[None, :, None], 255, NOISE)
    assert np.abs(np.asarray(found).astype(int) - expected).max() <= 1


def test_an_encoded_png_is_decoded_as_it_was() -> None:
    np.testing.assert_array_equal(decode(encode_png(NOISE)).pixels, NOISE)


# What cameras, phones and programs write


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_shows_what_its_visitor_sees(name: str) -> None:
    content, base = IMAGES[name]
    data = content_of(content)
    if base == "refused":
        with pytest.raises(ImageError):
            decode(data)
        return
    found = decode(data).network_pixels.astype(int)
    assert np.abs(found - at_network_size(BASES[base])).mean() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "note"),
    [
        *[(f"animated.{kind}", "only the first frame") for kind in ("png", "webp", "gif", "avif")],
        *[(name, "only the main image") for name in ("mpo.jpg", "ultra_hdr.jpg", "several.heic")],
        *[(name, "") for name in ("plain.jpg", "plain.png", "still.gif", "plain.webp", "web.avif", "photo.heic")],
    ],
)
def test_what_of_a_file_was_not_looked_at_is_said(name: str, note: str) -> None:
    found = decode(content_of(IMAGES[name][0])).note
    assert found.startswith(note)
    assert bool(found) == bool(note)


def test_of_200_scans_no_pixel_is_decoded() -> None:
    start = time.perf_counter()
    with pytest.raises(ImageError, match="has more than 50 scans"):
        decode(content_of(HOSTILE["1,000 scans"][0]))
    assert time.perf_counter() - start < 0.5


def test_decoding_imports_no_torch() -> None:
    code = "import sys, cifar_lit.data.images, cifar_lit.inference.decode_worker; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
