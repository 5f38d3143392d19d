"""Where the images of a batch come from: memory of the device, or memory of the host by way of pinned buffers.

Knows nothing of epochs, batches and augmentation.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_lit.data.image_set import ImageSet

_AHEAD = 2
"""Parts on their way to the device while one is used there."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a set, on the device.

    Attributes:
        images: uint8 (N, 32, 32, 3), among others perhaps.
        indices: int64 (B,), where in `images` the wanted ones lie.
        rows: int64 (B,), which images of the set they are.
        labels: int64 (B,).
    """

    images: Tensor
    indices: Tensor
    rows: Tensor
    labels: Tensor


def resident(data: ImageSet, rows: Tensor, sizes: Sequence[int]) -> Iterator[Part]:
    """Parts of a set that lies on the device: nothing is copied.

    Args:
        data: lies where it is wanted.
        rows: int64 (M,) on the CPU.
        sizes: of each part; they sum to M.
    """
    rows = rows.to(data.labels.device)  # all at once: each move would stall a GPU
    for part in torch.split(rows, list(sizes)):
        yield Part(data.images, part, part, data.labels[part])


def streamed(data: ImageSet, rows: Tensor, sizes: Sequence[int], device: torch.device) -> Iterator[Part]:
    """Parts of a set that lies in the host's memory: a thread gathers the next ones in pinned memory, and they are
    copied beside the device's work.

    Args:
        data: on the CPU.
        rows: int64 (M,) on the CPU.
        sizes: of each part; they sum to M.
        device: where the parts are wanted.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    arriving: deque[Future[_Arrival]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        for part in torch.split(rows, list(sizes)):
            arriving.append(pool.submit(_send, data, part, device, stream))
            if len(arriving) > _AHEAD:
                yield arriving.popleft().result().receive()
        while arriving:
            yield arriving.popleft().result().receive()


@dataclass(frozen=True, eq=False)
class _Arrival:
    images: Tensor
    rows: Tensor
    labels: Tensor
    sent: torch.cuda.Event | None

    def receive(self) -> Part:
        """Makes the device, not the host, wait for the copy."""
        if self.sent is not None:
            stream = torch.cuda.current_stream(self.labels.device)
            stream.wait_event(self.sent)
            for tensor in (self.images, self.rows, self.labels):
                tensor.record_stream(stream)  # its memory belongs to the copying stream, which must not reuse it early
        indices = torch.arange(len(self.rows), device=self.rows.device)
        return Part(self.images, indices, self.rows, self.labels)


def _send(data: ImageSet, rows: Tensor, device: torch.device, stream: torch.cuda.Stream | None) -> _Arrival:
    images, labels = _gather(data.images, rows, stream), _gather(data.labels, rows, stream)
    if stream is None:
        return _Arrival(images, rows, labels, None)
    # The pinned buffers are let go at once: torch gives them out again only when their copies are done.
    with torch.cuda.stream(stream):
        moved_images, moved_labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        moved_rows = rows.pin_memory().to(device, non_blocking=True)
        return _Arrival(moved_images, moved_rows, moved_labels, stream.record_event())


def _gather(values: Tensor, rows: Tensor, stream: torch.cuda.Stream | None) -> Tensor:
    gathered = torch.empty(len(rows), *values.shape[1:], dtype=values.dtype, pin_memory=stream is not None)
    return torch.index_select(values, 0, rows, out=gathered)
