"""Finds copies of images: equal pixels, and the same image encoded again, resized there and back, a little brighter
or darker, or mirrored.

An image is compared by two correlations, both of which must be high. The fine one sees grey 16x16 pixels less the mean
of the 4x4 pixels around them: two seas under two skies differ there. The coarse one sees all colours of 16x16 pixels:
two different images in equal frames differ there. Perceptual hashes (difference hash, cosine-transform hash) tell
copies from strangers less well at this size; `benchmarks/copies.py` measures that.
"""

import hashlib

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

FINE_CORRELATION = 0.92
COARSE_CORRELATION = 0.94
"""A pair at or above both is the same image: chosen on CIFAR-10, see `benchmarks/copies.py`."""

FLAT_STD = 3.0
"""Levels of 255. The flattest image of CIFAR-10 has 8."""

_GRID = 16
_BLOCK = 4
_CHUNK = 2_000
"""Rows that are compared at once, on either side: 16 MB of correlations."""


def flat(images: Tensor) -> Tensor:
    """bool (N,): images that show (almost) nothing: no channel varies by more than `FLAT_STD` levels.

    Args:
        images: uint8 (N, 32, 32, 3).
    """
    small = torch.zeros(len(images), dtype=torch.bool)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].flatten(1, 2).float()
        small[start : start + _CHUNK] = chunk.std(1, correction=0).amax(1) < FLAT_STD
    return small


def matches(images: Tensor, others: Tensor) -> Tensor:
    """int64 (N,): the row of `others` that each image is a copy of, the most alike if there are several; -1 if none.

    Flat images have no detail to compare and match equal pixels only.

    Args:
        images: uint8 (N, 32, 32, 3), on the CPU.
        others: uint8 (M, 32, 32, 3), on the CPU.
    """
    first = _first_rows(others)
    found = torch.tensor([first.get(key, -1) for key in _keys(images)], dtype=torch.int64)
    rows = (found < 0).nonzero().squeeze(1)
    best = torch.full((len(rows),), -1.0)
    fine = _fine(others)
    for mirrored in (False, True):
        queries = _fine(images[rows], mirrored=mirrored)
        for top in range(0, len(rows), _CHUNK):
            mine = slice(top, top + _CHUNK)
            for left in range(0, len(others), _CHUNK):
                similarity, place = (queries[mine] @ fine[left : left + _CHUNK].T).max(1)
                better = ((similarity >= FINE_CORRELATION) & (similarity > best[mine])).nonzero().squeeze(1)
                here, there = rows[mine][better], left + place[better]
                same = _coarse_correlation(images[here], others[there], mirrored=mirrored) >= COARSE_CORRELATION
                best[top + better[same]] = similarity[better[same]]
                found[here[same]] = there[same]
    return found


def duplicates(images: Tensor) -> Tensor:
    """int64 (N,): the first row that each row is a copy of, itself if there is none before it.

    Copies of a copy count as copies of the first.

    Args:
        images: uint8 (N, 32, 32, 3), on the CPU.
    """
    first = _first_rows(images)
    origin = torch.tensor([first[key] for key in _keys(images)], dtype=torch.int64)
    rows = torch.tensor(sorted(first.values()), dtype=torch.int64)
    parent = torch.arange(len(rows))
    best = torch.full((len(rows),), -1.0)
    fine = _fine(images[rows])
    for mirrored in (False, True):
        queries = _fine(images[rows], mirrored=mirrored) if mirrored else fine
        for top in range(0, len(rows), _CHUNK):
            mine = slice(top, top + _CHUNK)
            for left in range(0, top + 1, _CHUNK):
                similarities = queries[mine] @ fine[left : left + _CHUNK].T
                if left == top:  # each row is compared with those before it
                    similarities = similarities.tril(-1)
                similarity, place = similarities.max(1)
                better = ((similarity >= FINE_CORRELATION) & (similarity > best[mine])).nonzero().squeeze(1)
                here, there = top + better, left + place[better]
                alike = _coarse_correlation(images[rows[here]], images[rows[there]], mirrored=mirrored)
                same = alike >= COARSE_CORRELATION
                best[here[same]] = similarity[better[same]]
                parent[here[same]] = there[same]
    links = parent.tolist()
    for row, link in enumerate(links):  # a parent stands before its children, so it has been led to the first by now
        links[row] = links[link]
    leader = torch.zeros(len(images), dtype=torch.int64)
    leader[rows] = rows[torch.tensor(links, dtype=torch.int64)]
    return leader[origin]


def _keys(images: Tensor) -> list[bytes]:
    """A digest of the pixels of each image."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.contiguous().numpy()]


def _first_rows(images: Tensor) -> dict[bytes, int]:
    rows: dict[bytes, int] = {}
    for row, key in enumerate(_keys(images)):
        rows.setdefault(key, row)
    return rows


def _fine(images: Tensor, *, mirrored: bool = False) -> Tensor:
    """float32 (N, 256): detail of grey pixels, of length 1; zeros for an image without any."""
    vectors = torch.empty(len(images), _GRID * _GRID)
    for start in range(0, len(images), _CHUNK):
        # Sums of 2x2 pixels and 3 channels fit 16 bits; sums of slices are 8 times as fast as a mean over axes.
        grey = images[start : start + _CHUNK].to(torch.int16).sum(3, dtype=torch.int16)
        rows = grey[:, ::2] + grey[:, 1::2]
        small = (rows[:, :, ::2] + rows[:, :, 1::2]).float()
        small = small.flip(2) if mirrored else small
        around = avg_pool2d(small[:, None], _BLOCK)[:, 0].repeat_interleave(_BLOCK, 1).repeat_interleave(_BLOCK, 2)
        vectors[start : start + _CHUNK] = normalize((small - around).flatten(1), eps=1.0)
    return vectors


def _coarse_correlation(images: Tensor, others: Tensor, *, mirrored: bool) -> Tensor:
    """float32 (N,): correlation of the colours of each image with those of the other in the same place, -1..1."""
    pairs = []
    for each, flip in ((images, mirrored), (others, False)):
        pixels = each.permute(0, 3, 1, 2).float()
        small = avg_pool2d(pixels.flip(3) if flip else pixels, 2).flatten(2)
        pairs.append(normalize((small - small.mean(2, keepdim=True)).flatten(1), eps=1.0))
    return (pairs[0] * pairs[1]).sum(1)
