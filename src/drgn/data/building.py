"""Build a prepared stack: read, transform and write chunks of images on all cores; a kill costs little.

Chunks are read and transformed out of order and written in order, so that what is done is always a prefix of
the file. How long it is stands in state.json, which is written only after the images it speaks of are safe on
the disk.
"""

import dataclasses
import errno
import json
import os
import resource
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.transform import FieldTransform, usable
from drgn.errors import InputError
from drgn.formats.stacks import ImageReader
from drgn.physics.grids import half_lattice

CHUNK_BYTES = (
    1 << 23
)  # of images, transformed at a time by one thread: memory does not grow with their number
_SYNC_S = 2.0  # at most so much work is lost by a kill, and what the disk takes to be safe

T = TypeVar("T")
Values = NDArray[np.float16]
Good = NDArray[np.bool_]


@dataclass(frozen=True)
class Cost:
    """What making a prepared stack takes.

    Attributes
    ----------
    images
        To be prepared.
    folder, disk_bytes, free_bytes
        Where the stack goes, its size, and what is free there.
    seconds
        From reading and transforming the first images; 0 where there are too few to tell.
    memory_bytes
        Peak of the process.
    threads
        That work.
    """

    images: int
    folder: Path
    disk_bytes: int
    free_bytes: int
    seconds: float
    memory_bytes: int
    threads: int

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        last = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"
        return (
            f"{self.images:,} images, {in_bytes(self.disk_bytes)} on disk in {self.folder}"
            f" ({in_bytes(self.free_bytes)} free), about {last if minutes else f'{max(seconds, 1)} s'} with"
            f" {self.threads} threads, {in_bytes(self.memory_bytes)} of memory"
        )


@dataclass(eq=False)
class Plan:
    """What is to be made of which images.

    Attributes
    ----------
    reader
        Of the images, in the order of the stack.
    transforms
        One for each field of view.
    field
        (N,) field of each image.
    scale
        (N,) float32, what its transform is multiplied by: sign over noise.
    """

    reader: ImageReader
    transforms: list[FieldTransform]
    field: NDArray[np.int64]
    scale: NDArray[np.float32]
    _kept: threading.local = dataclasses.field(default_factory=threading.local)  # buffers of each thread

    def __len__(self) -> int:
        return len(self.field)

    @property
    def chunk(self) -> int:
        """Images transformed at a time."""
        return max(1, CHUNK_BYTES // (4 * max(t.original for t in self.transforms) ** 2))

    @property
    def row_bytes(self) -> int:
        """Of one prepared image."""
        return len(half_lattice(self.transforms[0].box_size, 2)) * 4

    def values(self, start: int) -> tuple[Values, Good]:
        """Read and transform the chunk that starts at a row."""
        rows = np.arange(start, min(start + self.chunk, len(self)))
        numbers = np.unique(self.field[rows])
        if len(numbers) == 1:
            return self._of_field(int(numbers[0]), rows)
        values = np.empty((len(rows), self.row_bytes // 4, 2), dtype=np.float16)
        good = np.empty(len(rows), dtype=bool)
        for number in numbers:
            some = self.field[rows] == number
            values[some], good[some] = self._of_field(int(number), rows[some])
        return values, good

    def variances(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Variance of the background and of everything, of the usable ones among images of one field."""
        number = int(self.field[rows[0]])
        images = self._images(number, rows)
        good = torch.from_numpy(usable(images))
        return self.transforms[number].variances(images if good.all() else images[good])

    def _of_field(self, number: int, rows: NDArray[np.int64]) -> tuple[Values, Good]:
        return self.transforms[number].prepared(self._images(number, rows), self.scale[rows])

    def _images(self, number: int, rows: NDArray[np.int64]) -> Tensor:
        """Read images of one field into the buffer that this thread has for them."""
        size = self.transforms[number].original
        kept = self._kept.__dict__
        if size not in kept:
            kept[size] = np.empty((self.chunk, size, size), dtype=np.float32)
        return torch.from_numpy(self.reader(rows, out=kept[size][: len(rows)]))


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Yield threads that transform images, each on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads(), thread_name_prefix="prepare")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def in_order(pool: ThreadPoolExecutor, task: Callable[[int], T], starts: range) -> Iterator[tuple[int, T]]:
    """Yield (start, task(start)) in order; a few tasks more than there are threads wait at a time."""
    waiting: deque[tuple[int, Future[T]]] = deque()
    for start in starts:
        waiting.append((start, pool.submit(task, start)))
        if len(waiting) > 2 * threads():
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def require_space(folder: Path, needed: int, option: str = "dataset.cache") -> int:
    """Return the bytes free where a folder is (or will be); an InputError where they are too few."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"the images need {in_bytes(needed)} in {folder}, where {in_bytes(free)} are free; make room"
            f" there, or give another folder as {option}=, or a smaller dataset.box_size"
        )
    return free


def cost_of(plan: Plan, folder: Path, start: int, pool: ThreadPoolExecutor) -> Cost:
    """Measure the first chunks and say what the rest costs; an InputError where the disk is too small."""
    remaining = len(plan) - start
    free = require_space(folder, remaining * plan.row_bytes)
    starts = range(start, min(len(plan), start + 2 * threads() * plan.chunk), plan.chunk)
    seconds = 0.0
    if remaining > 4 * len(starts) * plan.chunk:  # else it is over before it is measured
        list(in_order(pool, plan.values, starts[: threads()]))  # the first time pays for buffers
        began = time.perf_counter()
        list(in_order(pool, plan.values, starts))
        seconds = (time.perf_counter() - began) * remaining / (len(starts) * plan.chunk)
    # a thread holds a chunk of images and buffers; prepared chunks wait to be written
    waiting = 3 * threads() * plan.chunk * plan.row_bytes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + threads() * 2 * CHUNK_BYTES + waiting
    return Cost(remaining, folder, remaining * plan.row_bytes, free, seconds, memory, threads())


def write_images(
    plan: Plan,
    path: Path,
    state_file: Path,
    state: dict[str, object],
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None] | None,
) -> list[int]:
    """Write what is missing of a prepared stack; return the rows of images that cannot be used.

    Parameters
    ----------
    plan
        What to write.
    path
        The images; a prefix of them may be there.
    state_file, state
        Where and what is known of it: `done` images, and which of them are `rejected`.
    pool
        From `workers`.
    progress
        Called with (images done, images in all).
    """
    done, rejected = int(state["done"]), list(state["rejected"])  # type: ignore[call-overload, arg-type]
    try:
        with open(path, "r+b" if done else "w+b", buffering=0) as file, ThreadPoolExecutor(1) as syncer:
            file.truncate(done * plan.row_bytes)
            file.seek(0, os.SEEK_END)

            def safe(count: int, bad: list[int]) -> None:
                os.fsync(file.fileno())
                write_json(state_file, {**state, "done": count, "rejected": bad})

            syncing: Future[None] | None = None
            last = time.perf_counter()
            try:
                for start, (values, good) in in_order(pool, plan.values, range(done, len(plan), plan.chunk)):
                    _write(file, values)
                    rejected += (start + np.flatnonzero(~good)).tolist()
                    done = start + len(values)
                    if time.perf_counter() - last > _SYNC_S and (syncing is None or syncing.done()):
                        if syncing is not None:
                            syncing.result()
                        syncing, last = syncer.submit(safe, done, list(rejected)), time.perf_counter()
                    if progress is not None:
                        progress(done, len(plan))
            finally:
                if syncing is not None:
                    syncing.result()
                safe(done, rejected)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(
            f"{path.parent.parent} is full: {done:,} of {len(plan):,} images are prepared; make room and"
            " start again, which goes on from there"
        ) from None
    return rejected


def write_json(path: Path, content: object) -> None:
    """Write a file that is either the old or the new one, whatever happens."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _write(file: BinaryIO, values: Values) -> None:
    piece = memoryview(values.reshape(-1).view(np.uint8))
    while len(piece):
        piece = piece[file.write(piece) :]


def in_bytes(count: float) -> str:
    """A number of bytes, for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
