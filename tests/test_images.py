import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
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
    PNG,
    RAMP,
    RAMP_IMAGE,
    RESTARTS,
    SCENE,
    WEBP,
    chunk,
    content_of,
    encoded,
    jpeg_without,
    padded,
    png,
    segments,
    taken,
    unfiltered,
    ycck,
)
from PIL import Image

from cifar_lit.data import images
from cifar_lit.data.images import Decoded, decode
from cifar_lit.data.orientation import orientation
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


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"subsampling": 0}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, options: dict, orientation: int) -> None:
    image = decode(taken(kind, orientation, **options)).float()
    np.testing.assert_allclose(image, SCENE, atol=6 if kind == "JPEG" else 0)


def test_every_orientation_of_a_scene_gives_the_same_pixels() -> None:
    # JPEG at quality 100 without subsampling, of flat squares: what rounding is left does not depend on the direction.
    for kind, options in [("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": True})]:
        images = [to_network_size(decode(taken(kind, orientation, **options))) for orientation in range(1, 9)]
        assert all(torch.equal(image, images[0]) for image in images), kind


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
    assert exif.orientation(block) == orientation


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_sound_picture_raises(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, fault = HOSTILE[name]
    data = content_of(content)
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.fault == fault
    assert FRAGMENTS[name] in str(caught.value)
    assert ".cpp" not in str(caught.value)  # where the decoder was built is no one's concern
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_picture_is_decoded(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    image = to_network_size(decode(content_of(GOOD[name])))
    assert (image.shape, image.dtype) == ((32, 32, 3), torch.uint8)
    assert capfd.readouterr().err == ""


def test_a_cap_of_bytes_can_be_lifted() -> None:
    with pytest.raises(ImageError, match="has 5,242,881 bytes, at most 5,242,880 are accepted"):
        decode(padded(PNG, MAX_BYTES + 1))
    np.testing.assert_array_equal(decode(padded(PNG, MAX_BYTES + 1), max_bytes=None), NOISE)
    with pytest.raises(ImageError, match="at most 99 are accepted"):
        decode(PNG, max_bytes=99)


@pytest.mark.parametrize(
    "whole",
    [
        PNG,
        encoded(RAMP_IMAGE.quantize(16), transparency=3),
        JPEG,
        NOISE_PROGRESSIVE,
        RESTARTS,
        WEBP,
        LOSSLESS,
        ALPHA_WEBP,
    ],
)
def test_a_picture_cut_at_any_byte_is_malformed(whole: bytes) -> None:
    decode(whole)
    for end in range(len(whole)):
        with pytest.raises(ImageError) as caught:
            decode(whole[:end])
        assert caught.value.fault == "malformed", end


@pytest.mark.parametrize("whole", [NOISE_JPEG, RESTARTS])
def test_a_jpeg_cut_and_ended_is_never_filled_with_grey(whole: bytes) -> None:
    start = len(whole) - len(dict(segments(whole))[0])
    for end in range(start, len(whole) - 2):
        with pytest.raises(ImageError, match="pixels are damaged"):
            decode(whole[:end] + b"\xff\xd9")


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
    image = decode(data).numpy().astype(float)
    np.testing.assert_allclose(image, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), atol=2)
    assert np.abs(image - RAMP).mean() < 6


def test_warnings_of_others_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with jpeg_warnings.collected() as warnings:
        os.write(2, b"a line\nCorrupt JPEG data: something\nanother\n")
    assert warnings == ["Corrupt JPEG data: something"]
    assert capfd.readouterr().err == "a line\nanother\n"
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "later\n"


def test_a_process_with_nothing_to_say_tells_damage_too_whatever_was_written_before() -> None:
    damaged, _ = HOSTILE["JPEG cut and ended"]
    code = """
import os, resource, sys
from cifar_lit.data import jpeg_warnings
from cifar_lit.data.images import decode
from cifar_lit.errors import ImageError
size = int(sys.argv[1])
sound, damaged = sys.stdin.buffer.read(size), sys.stdin.buffer.read()
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
jpeg_warnings.own_stderr()
for noise in (b"", b"Corrupt JPEG data: of others\\n", b"x" * 65536):
    os.write(2, noise)
    decode(sound)
    try:
        decode(damaged)
    except ImageError as error:
        print(error)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(len(NOISE_JPEG))]
    ended = subprocess.run(command, input=NOISE_JPEG + content_of(damaged), capture_output=True, check=True)
    lines = ended.stdout.decode().splitlines()
    assert len(lines) == 3
    assert all("Corrupt JPEG data" in line for line in lines)


def test_damage_is_told_apart_in_many_threads() -> None:
    wrong: list[str] = []
    damaged, _ = HOSTILE["JPEG cut and ended"]

    def work(data: bytes, sound: bool) -> None:
        for _ in range(50):
            try:
                decode(data)
                found = True
            except ImageError:
                found = False
            if found != sound:
                wrong.append(f"sound: {sound}")

    threads = [
        threading.Thread(target=work, args=(data, sound))
        for data, sound in [(NOISE_JPEG, True), (content_of(damaged), False)] * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


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


def test_a_refusal_from_the_header_allocates_nothing() -> None:
    data = png(50_000, 50_000, 8, 2, bytes(200))
    tracemalloc.start()
    with pytest.raises(ImageError, match="the PNG is 50000x50000"):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_large_claim_with_few_pixels_is_refused_before_the_picture_is_allocated() -> None:
    with pytest.raises(ImageError, match="ends after 200 of 48,004,000 bytes of pixels"):
        decode(png(4_000, 4_000, 8, 2, bytes(200)))


@pytest.mark.parametrize("whole", [PNG, JPEG, NOISE_PROGRESSIVE, RESTARTS, WEBP, LOSSLESS, ALPHA_WEBP])
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


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 500), (33, 31), (300, 200), (1, 8_192), (8_192, 1), (8_192, 2)]
)
def test_to_network_size_gives_32x32_for_any_size(height: int, width: int) -> None:
    image = to_network_size(torch.full((height, width, 3), 77, dtype=torch.uint8))
    assert (image.shape, image.dtype) == ((32, 32, 3), torch.uint8)
    assert image.is_contiguous()
    assert (image == 77).all()


@pytest.mark.parametrize(("height", "width"), [(96, 1_000), (1_000, 96), (64, 64)])
def test_to_network_size_equals_pillows_antialiasing(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    expected = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(to_network_size(torch.from_numpy(pixels)).numpy() - expected).max() <= 1


def test_to_network_size_keeps_the_mean_colour_of_every_place() -> None:
    # A slope keeps its value at every place under any symmetric average, but for the edges.
    slope = np.linspace(0, 255, 320)[None, :, None].repeat(320, axis=0).repeat(3, axis=2)
    image = to_network_size(torch.from_numpy(slope.round().astype(np.uint8)))
    expected = slope.reshape(32, 10, 32, 10, 3).mean(axis=(1, 3))
    assert np.abs(image.numpy() - expected)[:, 1:-1].max() < 1


def test_a_large_transparent_picture_is_laid_over_white_in_every_block_of_rows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 800, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(decode(encoded(image, compress_level=1)), over_white(image))
