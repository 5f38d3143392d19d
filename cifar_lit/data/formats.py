"""What kind of file some bytes are, by content alone: the image formats that are read, and the names of others."""

import re
from typing import Literal

from cifar_lit.errors import ImageError

Format = Literal["JPEG", "PNG", "WebP", "GIF", "BMP", "AVIF", "HEIC"]

ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC"

_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2")
_SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
)
_SHORTEST = 12
"""Bytes that tell any format from the others."""
_OTHERS = (
    (rb"II[*+]\0|MM\0[*+]", "a TIFF (or a camera's raw file)"),
    (rb"IIU\0|IIRO|IIRS|MMOR|FUJIFILMCCD-RAW|FOVb", "a camera's raw file"),
    (rb"\0\0\0\x0cjP|\xff\x4f\xff\x51", "a JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL"),
    (rb"%PDF", "a PDF"),
    (rb"8BP[SB]", "a Photoshop file (PSD)"),
    (rb"\0\0[\x01\x02]\0[^\0]", "an icon (ICO or CUR)"),
    (rb"\0\0[\x02\x0a]\0{5}", "a TGA"),
    (rb"icns", "an icon (ICNS)"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file (EPS)"),
    (rb"SIMPLE  =", "a FITS"),
    (rb"\xd0\xcf\x11\xe0", "a FlashPix or Office file"),
    (rb"\x8a[MJ]NG|\x8bJNG", "an MNG or JNG"),
    (rb"P[1-7Ff][ \t\r\n]", "a PNM"),
    (rb"qoif", "a QOI"),
    (rb"DDS ", "a DDS texture"),
    (rb"gimp xcf", "a GIMP file (XCF)"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR"),
    (rb"#\?RADIANCE|#\?RGBE", "a Radiance HDR"),
    (rb"BPG\xfb", "a BPG"),
    (rb"AT&TFORM", "a DjVu"),
    (rb"\n[\x00-\x05]\x01[\x01\x02\x04\x08]", "a PCX"),
    (rb"\x59\xa6\x6a\x95", "a Sun raster"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "a Windows metafile"),
    (rb".{128}DICM", "a DICOM"),
    (rb".{4}ftypcrx ", "a camera's raw file"),
    (rb".{4}(?:ftyp|moov|mdat|wide|free)", "an MP4 or QuickTime video"),
    (rb"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (rb"RIFF.{4}AVI ", "an AVI video"),
    (rb"RIFF.{4}WAVE|ID3|OggS|fLaC|\xff[\xfb\xf3\xf2]", "a sound"),
    (rb"PK(?:\x03\x04|\x05\x06)", "a ZIP archive"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed archive"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"(?i)(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE\s+svg[^>]*>\s*)*<svg[\s/>]", "an SVG"),
    (rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body)", "an HTML page"),
    (rb"(?:\xef\xbb\xbf)?\s*<\?xml", "an XML file"),
)
_OTHER_KINDS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _OTHERS)
_HEAD = 4096
"""Bytes that are looked at to name a file."""
_TEXT = re.compile(rb"[\t\n\f\r\x20-\x7e\x80-\xff]+")


def format_of(data: bytes) -> Format:
    """The format of an image file.

    Args:
        data: its content, or its first bytes.

    Raises:
        ImageError: `malformed`: empty, or cut off inside its signature; `unsupported`: something else, which is named.
    """
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if (found := _of_brands(data)) is not None:
        return found
    if not data:
        raise ImageError(f"the file is empty, expected a {ACCEPTED} image.", "malformed")
    if len(data) < _SHORTEST and _begins(data):
        raise ImageError(f"the file is cut off after {len(data)} bytes. Send it again.", "malformed")
    kind = name_of(data)
    is_what = f"this is {kind}" if kind else "the content is no image that is known here"
    raise ImageError(f"{is_what}, expected a {ACCEPTED} image. Save it as JPEG or PNG.", "unsupported")


def name_of(data: bytes) -> str:
    """What a file that is not read is, with its article; empty if it is nothing that is known here."""
    head = data[:_HEAD]
    name = next((name for pattern, name in _OTHER_KINDS if pattern.match(head)), "")
    return name or ("a text" if head and _is_text(head) else "")


def _of_brands(data: bytes) -> Format | None:
    """The format that the brands of an ISO media file name."""
    if data[4:8] != b"ftyp":
        return None
    size = min(max(int.from_bytes(data[:4], "big"), 16), _HEAD)
    major, *others = (data[start : start + 4] for start in (8, *range(16, size, 4)))
    for brands in ((major,), others):  # a HEIC's major brand may be the general mif1, and so may an AVIF's
        if any(brand in _AVIF_BRANDS for brand in brands):
            return "AVIF"
        if any(brand in _HEIC_BRANDS[:-3] for brand in brands):
            return "HEIC"
    return "HEIC" if major in _HEIC_BRANDS else None


def _begins(data: bytes) -> bool:
    """Whether so few bytes may be the beginning of an image."""
    whole = [signature for signature, _ in _SIGNATURES]
    in_riff = b"RIFF".startswith(data[:4]) and b"WEBP".startswith(data[8:])
    in_ftyp = len(data) > 4 and b"ftyp".startswith(data[4:8])
    return in_riff or in_ftyp or any(signature.startswith(data) for signature in whole)


def _is_text(head: bytes) -> bool:
    if _TEXT.fullmatch(head) is None:
        return False
    try:
        head[:-4].decode()  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True
