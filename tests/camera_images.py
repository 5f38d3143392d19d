"""Images as people's cameras, phones and programs write them, each with what a visitor expects to be seen.

`IMAGES`: by name the file, or what builds it, and the name of the base image that it shows, or "refused". What the
network sees of a file may differ from its base by `TOLERANCE` grey levels in the mean.
"""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from hostile_images import chunk, encoded, jpeg_with, png, unfiltered
from PIL import Image, ImageCms

TOLERANCE = 6.0

H, W = 240, 320
_y, _x = np.mgrid[0:H, 0:W].astype(float)
_WAVES = np.stack(
    [128 + 100 * np.sin(_x / 30) * np.cos(_y / 24), 60 + 150 * _y / H + 20 * np.sin(_x / 7), 200 - 160 * _x / W], -1
)
RGB = np.clip(_WAVES + np.random.default_rng(0).normal(0, 6, (H, W, 3)), 0, 255).astype(np.uint8)
IMAGE = Image.fromarray(RGB)
_SMALL = IMAGE.reduce(2)
GREY = np.maximum(np.asarray(IMAGE.convert("L")), 1)
LEFT = np.arange(W) < W // 2
_MARKED = np.where(LEFT[None, :, None], (255, 0, 255), RGB | (0, 1, 0)).astype(np.uint8)
_ALPHA = np.where(LEFT, 0, 255)[None].repeat(H, 0).astype(np.uint8)
_RGBA = Image.fromarray(np.dstack([_MARKED, _ALPHA]))
_COARSE = {bits: GREY >> (8 - bits) for bits in (1, 2, 4)}


def _white_left(pixels: np.ndarray) -> np.ndarray:
    return np.where(LEFT[None, :, None], 255, pixels).astype(np.uint8)


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels] * 3).astype(np.uint8)


BASES: dict[str, np.ndarray] = {
    "rgb": RGB,
    "grey": _grey(GREY),
    "white left": _white_left(_MARKED),
    "grey, white left": _white_left(_grey(GREY)),
    "right": _white_left(RGB),
    "half": (RGB * 0.5 + 127.5).astype(np.uint8),
    **{f"{bits} bits": _grey(values * (255 // (2**bits - 1))) for bits, values in _COARSE.items()},
    **{
        f"{bits} bits, white left": _white_left(_grey(np.maximum(values, 1) * (255 // (2**bits - 1))))
        for bits, values in _COARSE.items()
    },
}

# JPEG

JPEG, PROGRESSIVE = encoded(IMAGE, "JPEG", quality=90), encoded(IMAGE, "JPEG", quality=90, progressive=True)
_ADOBE_CMYK = encoded(IMAGE.convert("CMYK"), "JPEG", quality=92)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, 2 + len(body)) + body


def xmp(orientation: int) -> bytes:
    tag = f'tiff:Orientation="{orientation}"' if orientation % 2 else f"><tiff:Orientation>{orientation}</tiff:Or"
    return f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description {tag}ientation>".encode()


def turned(orientation: int) -> Image.Image:
    return IMAGE.transpose(_TURNS[orientation])


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x112] = orientation
    return block


def with_segments(data: bytes, *extra: bytes) -> bytes:
    return data[:2] + b"".join(extra) + data[2:]


def xmp_jpeg(orientation: int, **options: object) -> bytes:
    data = encoded(turned(orientation), "JPEG", quality=92, **options)
    return with_segments(data, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(orientation)))


def ultra_hdr() -> bytes:
    """A gain map behind the image, as Android's cameras write it."""
    gain_map = encoded(Image.fromarray(GREY).resize((50, 36)), "JPEG")

    def index(first: int, offset: int) -> bytes:
        head = b"MPF\0MM\0*\0\0\0\x08" + struct.pack(">H", 3) + struct.pack(">HHI4s", 0xB000, 7, 4, b"0100")
        head += struct.pack(">HHII", 0xB001, 4, 1, 2) + struct.pack(">HHII", 0xB002, 7, 32, 50) + b"\0\0\0\0"
        places = struct.pack(">IIIHH", 0x030000, first, 0, 0, 0)
        return segment(0xE2, head + places + struct.pack(">IIIHH", 0, len(gain_map), offset, 0, 0))

    total = len(JPEG) + len(index(0, 0))
    return with_segments(JPEG, index(total, total - 10)) + gain_map


def two_frames() -> bytes:
    return jpeg_with(lambda marker, body: body * 2 if marker == 0xC0 else body, JPEG)


def mpo(**options: Any) -> bytes:
    return encoded(options.pop("image", IMAGE), "MPO", save_all=True, append_images=[IMAGE.resize((40, 30))], **options)


def _dark() -> bytes:
    """Bright above, black below."""
    pixels = RGB * (np.arange(H) < H * 2 // 5)[:, None, None]
    return encoded(Image.fromarray(pixels.astype(np.uint8)), "JPEG")


def _with_alpha(image: Image.Image, alpha: int | None = None) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.fromarray(_ALPHA) if alpha is None else alpha)
    return image


def _before_pixels(data: bytes, extra: bytes) -> bytes:
    return data[:33] + extra + data[33:]


# Colour profiles


@cache
def profile(gamma: float, primaries: tuple[tuple[float, float, float], ...], kind: bytes = b"RGB ") -> bytes:
    """An ICC profile: a gamma curve, and of each channel the XYZ (D50) of its full colour; of grey white's."""

    def fixed(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(gamma * 256)) + b"\0\0"
    white = fixed((0.9642, 1.0, 0.8249))
    text = b"desc\0\0\0\0\0\0\0\5test\0" + bytes(78 + 3)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": white}
    if kind == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {name + b"XYZ": fixed(values) for name, values in zip((b"r", b"g", b"b"), primaries, strict=True)}
        tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    table, body, place = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = place + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", kind, b"XYZ ") + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
WIDE = profile(1.8, ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)))
"""ProPhoto: in sRGB its numbers look pale."""
P3 = profile(2.2, ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)))
DOT_GAIN = profile(1.0, (), b"GRAY")


def in_profile(icc: bytes, image: Image.Image = IMAGE) -> Image.Image:
    """`IMAGE` in numbers that mean its colours under another profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    found = ImageCms.profileToProfile(image, SRGB, target, outputMode="L" if icc is DOT_GAIN else "RGB")
    assert found is not None
    return found


# PNG

_ROWS = unfiltered(RGB)
_PIXELS = zlib.compress(_ROWS)
_GREY16 = GREY.astype(">u2") * 257
_KEYED_GREY = np.where(LEFT[None], 0, GREY).astype(np.uint8)
_XMP_CHUNK = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))


def damaged(body: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return body[:-4] + b"\1\2\3\4"


def whole(depth: int, colour: int, rows: bytes, extra: bytes = b"", size: tuple[int, int] = (W, H)) -> bytes:
    return png(*size, depth, colour, rows, extra=extra)


def of_chunks(*chunks: bytes) -> bytes:
    return whole(8, 2, b"")[:33] + b"".join(chunks)


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of values of so few bits."""
    planes = np.unpackbits(values[..., None].astype(np.uint8), axis=-1)[..., 8 - bits :]
    return unfiltered(np.packbits(planes.reshape(len(values), -1), axis=1))


def keyed(bits: int) -> bytes:
    values = np.where(LEFT[None], 0, np.maximum(_COARSE[bits], 1))
    return whole(bits, 0, packed(values, bits), chunk(b"tRNS", b"\0\0"))


def alike_16() -> bytes:
    """16-bit grey; the transparent number is met on the left only, those next to it everywhere else."""
    values = np.where(LEFT[None], 257 * 100, np.where(GREY == 100, 257 * 100 + 1, GREY.astype(int) * 257))
    return whole(16, 0, unfiltered(values.astype(">u2")), chunk(b"tRNS", struct.pack(">H", 257 * 100)))


def large_png() -> bytes:
    return encoded(IMAGE.resize((2_000, 1_500), Image.Resampling.BICUBIC), compress_level=1)


# BMP, GIF, WebP, AVIF, HEIC


def bmp(
    bits: int, compression: int, rows: bytes, palette: bytes = b"", *, height: int = H, masks: bytes = b""
) -> bytes:
    start = 54 + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, W, height, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + masks + palette + rows


_GREYS = b"".join(bytes([n, n, n, 0]) for n in range(256))


def rle8() -> bytes:
    """Each row as runs of one pixel; ended by 0 0, all of it by 0 1."""
    rows = b"".join(b"".join(b"\1" + bytes([value]) for value in row) + b"\0\0" for row in GREY[::-1])
    return bmp(8, 1, rows + b"\0\1", _GREYS)


def bmp_565() -> bytes:
    red, green, blue = (RGB[::-1].astype(np.uint16) >> np.array([3, 2, 3])).transpose(2, 0, 1)
    values = (red << 11 | green << 5 | blue).astype("<u2")
    return bmp(16, 3, values.tobytes(), masks=struct.pack("<III", 0xF800, 0x07E0, 0x001F))


def small_frame_gif() -> bytes:
    """A first frame that covers the right half only; the rest is transparent."""
    indexed = IMAGE.quantize(200)
    right = encoded(indexed.crop((W // 2, 0, W, H)), "GIF")
    place = right.index(b"\x2c\0\0\0\0")
    head = right[:6] + struct.pack("<HH", W, H) + right[10:place]
    return head + b"\x2c" + struct.pack("<HH", W // 2, 0) + right[place + 5 :]


def with_next(image: Image.Image, kind: str, **options: object) -> bytes:
    following = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return encoded(image, kind, save_all=True, append_images=[following], **options)


def heic(image: Image.Image = _SMALL, **options: object) -> bytes:
    import pillow_heif

    pillow_heif.register_heif_opener()
    return encoded(image, "HEIF", quality=85, **options)


def deep_heic(bits: int) -> bytes:
    import pillow_heif

    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    try:
        file = pillow_heif.from_bytes("RGB;16", (W, H), (RGB.astype("<u2") * 257).tobytes())
        buffer = io.BytesIO()
        file.save(buffer, quality=90)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = False
    return buffer.getvalue()


WEBP, AVIF = encoded(IMAGE, "WEBP", quality=90), encoded(IMAGE, "AVIF", quality=80)
_PALETTE_KEY = encoded(Image.fromarray(_KEYED_GREY).convert("P"), transparency=0)

IMAGES: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    # JPEG
    "plain.jpg": (JPEG, "rgb"),
    "progressive.jpg": (PROGRESSIVE, "rgb"),
    "progressive_grey.jpg": (encoded(IMAGE.convert("L"), "JPEG", progressive=True), "grey"),
    "restart_markers.jpg": (encoded(IMAGE, "JPEG", quality=90, restart_marker_rows=1), "rgb"),
    "no_subsampling.jpg": (encoded(IMAGE, "JPEG", quality=90, subsampling=0), "rgb"),
    "grey.jpg": (encoded(IMAGE.convert("L"), "JPEG"), "grey"),
    "rgb_not_ycc.jpg": (encoded(IMAGE, "JPEG", quality=95, keep_rgb=True), "rgb"),
    "cmyk.jpg": (_ADOBE_CMYK, "rgb"),
    "no_jfif.jpg": (jpeg_with(lambda marker, body: b"" if marker == 0xE0 else body, JPEG), "rgb"),
    "trailer_video.jpg": (JPEG + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 20, "rgb"),
    "trailer_samsung.jpg": (JPEG + b"\0\0\1\x0a\x0e\0\0\0Image_UTC_Data1600000000000SEFHk\0\0\0SEFT", "rgb"),
    "trailer_without_end.jpg": (JPEG[:-2] + b"\0\0\1\x0a\x0e\0\0\0Image_UTC_Data1600000000000SEFHk\0\0\0SEFT", "rgb"),
    "long_tail.jpg": (lambda: JPEG + bytes(7_000_000), "rgb"),
    "fill_bytes.jpg": (with_segments(JPEG, b"\xff\xff\xff"), "rgb"),
    "stray_bytes.jpg": (jpeg_with(lambda marker, body: b"?>" * (marker == 0xDB) + body, JPEG), "rgb"),
    "stray_bytes_progressive.jpg": (
        jpeg_with(lambda marker, body: b"?>" * (marker == 0xDB) + body, PROGRESSIVE),
        "rgb",
    ),
    "zeros_before_end.jpg": (JPEG[:-2] + bytes(60) + JPEG[-2:], "rgb"),
    "no_end.jpg": (JPEG[:-2], "rgb"),
    "half_an_end.jpg": (JPEG[:-1], "rgb"),
    "no_end_restarts.jpg": (encoded(IMAGE, "JPEG", quality=90, restart_marker_rows=1)[:-2], "rgb"),
    "progressive_no_end.jpg": (PROGRESSIVE[:-2], "rgb"),
    "progressive_half_an_end.jpg": (PROGRESSIVE[:-1], "rgb"),
    "cut_by_a_few_bytes.jpg": (JPEG[:-20], "rgb"),
    **{f"cut{share}.jpg": (JPEG[: len(JPEG) * share // 100], "refused") for share in (10, 25, 50, 75, 90)},
    **{f"progressive_cut{s}.jpg": (PROGRESSIVE[: len(PROGRESSIVE) * s // 100], "refused") for s in (10, 50, 75, 90)},
    "cut50_ended.jpg": (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "refused"),
    "progressive_cut50_ended.jpg": (PROGRESSIVE[: len(PROGRESSIVE) // 2] + b"\xff\xd9", "refused"),
    "black_cut50.jpg": (lambda: _dark()[: len(_dark()) // 2], "refused"),
    "two_frames.jpg": (two_frames, "refused"),
    "mpo.jpg": (mpo, "rgb"),
    "mpo_orientation6.jpg": (lambda: mpo(image=turned(6), exif=exif(6)), "rgb"),
    "ultra_hdr.jpg": (ultra_hdr, "rgb"),
    **{f"orientation{n}.jpg": (encoded(turned(n), "JPEG", quality=92, exif=exif(n)), "rgb") for n in _TURNS},
    **{f"xmp_orientation{n}.jpg": (xmp_jpeg(n), "rgb") for n in (3, 6)},
    "exif_before_xmp.jpg": (
        with_segments(
            encoded(turned(6), "JPEG", quality=92, exif=exif(6)),
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(3)),
        ),
        "rgb",
    ),
    "phone_24mpx.jpg": (
        lambda: encoded(IMAGE.resize((5_880, 4_080), Image.Resampling.BICUBIC), "JPEG", quality=80),
        "rgb",
    ),
    "phone_progressive.jpg": (
        lambda: encoded(IMAGE.resize((2_940, 2_040), Image.Resampling.BICUBIC), "JPEG", progressive=True),
        "rgb",
    ),
    # Colour profiles
    "srgb_profile.jpg": (encoded(IMAGE, "JPEG", quality=92, icc_profile=SRGB.tobytes()), "rgb"),
    "wide_profile.jpg": (encoded(in_profile(WIDE), "JPEG", quality=95, icc_profile=WIDE), "rgb"),
    "p3_profile.jpg": (encoded(in_profile(P3), "JPEG", quality=95, icc_profile=P3), "rgb"),
    "wide_profile.png": (encoded(in_profile(WIDE), icc_profile=WIDE), "rgb"),
    "wide_profile.webp": (encoded(in_profile(WIDE), "WEBP", lossless=True, icc_profile=WIDE), "rgb"),
    "wide_profile.avif": (encoded(in_profile(WIDE), "AVIF", quality=95, icc_profile=WIDE), "rgb"),
    "wide_profile.heic": (lambda: heic(in_profile(WIDE), icc_profile=WIDE), "rgb"),
    "grey_profile.jpg": (
        encoded(in_profile(DOT_GAIN, Image.fromarray(_grey(GREY))), "JPEG", quality=95, icc_profile=DOT_GAIN),
        "grey",
    ),
    "rgb_profile_of_grey.jpg": (encoded(IMAGE.convert("L"), "JPEG", icc_profile=WIDE), "grey"),
    "broken_profile.jpg": (encoded(IMAGE, "JPEG", quality=92, icc_profile=b"no profile" * 20), "rgb"),
    "damaged_profile.png": (whole(8, 2, _ROWS, damaged(chunk(b"iCCP", b"p\0\0" + zlib.compress(WIDE)))), "rgb"),
    "wide_profile_rgba.png": (
        lambda: encoded(_with_alpha(in_profile(WIDE, Image.fromarray(_MARKED))), icc_profile=WIDE),
        "white left",
    ),
    # PNG
    "plain.png": (whole(8, 2, _ROWS), "rgb"),
    "grey16.png": (whole(16, 0, unfiltered(_GREY16)), "grey"),
    "grey_alpha16.png": (
        whole(16, 4, unfiltered(np.dstack([_GREY16, _ALPHA.astype(">u2") * 257]))),
        "grey, white left",
    ),
    "rgb16.png": (whole(16, 2, unfiltered(RGB.astype(">u2") * 257)), "rgb"),
    "rgba16.png": (
        whole(16, 6, unfiltered(np.dstack([_MARKED, _ALPHA]).astype(">u2") * 257)),
        "white left",
    ),
    **{f"grey{bits}.png": (whole(bits, 0, packed(values, bits)), f"{bits} bits") for bits, values in _COARSE.items()},
    **{f"grey{bits}_key.png": (keyed(bits), f"{bits} bits, white left") for bits in _COARSE},
    "grey_key.png": (whole(8, 0, unfiltered(_KEYED_GREY), chunk(b"tRNS", b"\0\0")), "grey, white left"),
    "grey16_key.png": (
        whole(16, 0, unfiltered(_KEYED_GREY.astype(">u2") * 257), chunk(b"tRNS", b"\0\0")),
        "grey, white left",
    ),
    "grey16_key_alike.png": (alike_16, "grey, white left"),
    "rgb_key.png": (whole(8, 2, unfiltered(_MARKED), chunk(b"tRNS", struct.pack(">3H", 255, 0, 255))), "white left"),
    "rgb16_key.png": (
        whole(16, 2, unfiltered(_MARKED.astype(">u2") * 257), chunk(b"tRNS", struct.pack(">3H", 65535, 0, 65535))),
        "white left",
    ),
    "damaged_key.png": (whole(8, 0, unfiltered(GREY), damaged(chunk(b"tRNS", b"\0\0"))), "grey"),
    "rgba.png": (encoded(_RGBA), "white left"),
    "half_transparent.png": (encoded(_with_alpha(IMAGE, 128)), "half"),
    "palette.png": (encoded(Image.fromarray(GREY).convert("P")), "grey"),
    "palette_key.png": (_PALETTE_KEY, "grey, white left"),
    "grey_alpha.png": (encoded(Image.fromarray(np.dstack([GREY, _ALPHA]))), "grey, white left"),
    "wrong_pixel_checksum.png": (of_chunks(damaged(chunk(b"IDAT", _PIXELS)), chunk(b"IEND", b"")), "rgb"),
    "wrong_text_checksum.png": (whole(8, 2, _ROWS, damaged(chunk(b"tEXt", b"Software\0x"))), "rgb"),
    "wrong_time_checksum.png": (whole(8, 2, _ROWS, damaged(chunk(b"tIME", bytes(7)))), "rgb"),
    "odd_density.png": (whole(8, 2, _ROWS, chunk(b"pHYs", b"\0")), "rgb"),
    "gamma_only.png": (whole(8, 2, _ROWS, chunk(b"gAMA", struct.pack(">I", 45455))), "rgb"),
    "no_iend.png": (of_chunks(chunk(b"IDAT", _PIXELS)), "rgb"),
    "trailer.png": (whole(8, 2, _ROWS) + bytes(range(256)) * 12, "rgb"),
    "apple.png": (
        whole(
            8, 2, _ROWS, chunk(b"cICP", bytes([12, 13, 0, 1])) + chunk(b"iDOT", bytes(28)) + chunk(b"caBX", b"x" * 500)
        ),
        "rgb",
    ),
    "text_inflates_to_3mb.png": (
        whole(8, 2, _ROWS, chunk(b"zTXt", b"C\0\0" + zlib.compress(b"a" * 3_000_000))),
        "rgb",
    ),
    "profile_inflates_to_50mb.png": (
        lambda: whole(8, 2, _ROWS, chunk(b"iCCP", b"C\0\0" + zlib.compress(bytes(50_000_000)))),
        "rgb",
    ),
    "many_pixel_chunks.png": (
        of_chunks(*(chunk(b"IDAT", _PIXELS[n : n + 100]) for n in range(0, len(_PIXELS), 100)), chunk(b"IEND", b"")),
        "rgb",
    ),
    "animated.png": (with_next(IMAGE, "PNG"), "rgb"),
    "orientation6.png": (encoded(turned(6), exif=exif(6)), "rgb"),
    "xmp_orientation6.png": (lambda: _before_pixels(encoded(turned(6)), _XMP_CHUNK), "rgb"),
    "large.png": (large_png, "rgb"),
    "half_the_pixels.png": (of_chunks(chunk(b"IDAT", _PIXELS[: len(_PIXELS) // 2]), chunk(b"IEND", b"")), "refused"),
    "cut_amid_pixels.png": (whole(8, 2, _ROWS)[: len(_PIXELS) // 2], "refused"),
    "bomb_400mpx.png": (whole(8, 0, bytes(20_001 * 200), size=(20_000, 20_000)), "refused"),
    # WebP
    "plain.webp": (WEBP, "rgb"),
    "webp_named.jpg": (WEBP, "rgb"),
    "rgba.webp": (encoded(_RGBA, "WEBP", lossless=True), "white left"),
    "lossy_rgba.webp": (encoded(_RGBA, "WEBP", quality=90), "white left"),
    "animated.webp": (with_next(IMAGE, "WEBP", quality=90), "rgb"),
    "trailer.webp": (WEBP + b"trailer", "rgb"),
    "orientation6.webp": (encoded(turned(6), "WEBP", quality=95, exif=exif(6)), "rgb"),
    "xmp_orientation6.webp": (encoded(turned(6), "WEBP", quality=95, xmp=xmp(6)), "rgb"),
    "cut50.webp": (WEBP[: len(WEBP) // 2], "refused"),
    # GIF
    "still.gif": (encoded(IMAGE, "GIF"), "rgb"),
    "animated.gif": (with_next(IMAGE, "GIF"), "rgb"),
    "transparent.gif": (encoded(Image.fromarray(_KEYED_GREY), "GIF", transparency=0), "grey, white left"),
    "small_frame.gif": (small_frame_gif, "right"),
    "interlaced.gif": (encoded(IMAGE, "GIF", interlace=1), "rgb"),
    "cut50.gif": (lambda: encoded(IMAGE, "GIF")[:6000], "refused"),
    # BMP
    "paint.bmp": (encoded(IMAGE, "BMP"), "rgb"),
    "one_bit.bmp": (encoded(Image.fromarray(_COARSE[1] * 255).convert("1"), "BMP"), "1 bits"),
    "palette.bmp": (encoded(Image.fromarray(GREY), "BMP"), "grey"),
    "rle8.bmp": (rle8, "grey"),
    "16_bits.bmp": (bmp_565, "rgb"),
    "32_bits.bmp": (bmp(32, 0, np.dstack([RGB[::-1, :, ::-1], _ALPHA * 0]).tobytes()), "rgb"),
    "top_down.bmp": (bmp(24, 0, RGB[:, :, ::-1].tobytes(), height=-H), "rgb"),
    "cut50.bmp": (encoded(IMAGE, "BMP")[: H * W * 3 // 2], "refused"),
    # AVIF
    "web.avif": (AVIF, "rgb"),
    "avif_named.jpg": (AVIF, "rgb"),
    "rgba.avif": (encoded(_RGBA, "AVIF", quality=95), "white left"),
    "animated.avif": (with_next(IMAGE, "AVIF", quality=80), "rgb"),
    "grey.avif": (encoded(IMAGE.convert("L"), "AVIF", quality=80), "grey"),
    **{f"orientation{n}.avif": (encoded(turned(n), "AVIF", quality=90, exif=exif(n)), "rgb") for n in (3, 6)},
    "cut50.avif": (AVIF[: len(AVIF) // 2], "refused"),
    # HEIC
    "photo.heic": (heic, "rgb"),
    "heic_named.jpg": (heic, "rgb"),
    "rgba.heic": (lambda: heic(_RGBA), "white left"),
    "grey.heic": (lambda: heic(IMAGE.convert("L")), "grey"),
    "several.heic": (lambda: heic(save_all=True, append_images=[IMAGE.rotate(180)]), "rgb"),
    **{f"{bits}_bits.heic": (partial(deep_heic, bits), "rgb") for bits in (10, 12)},
    **{f"orientation{n}.heic": (partial(heic, turned(n), exif=exif(n).tobytes()), "rgb") for n in (3, 6)},
    "cut50.heic": (lambda: heic()[: len(heic()) // 2], "refused"),
    # Others
    "scan.tif": (encoded(IMAGE, "TIFF"), "refused"),
    "text_named.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "refused"),
}
