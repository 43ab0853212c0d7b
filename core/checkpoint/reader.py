"""Loads a checkpoint on any layout: each fragment takes what it needs from the slices that hold it, verified first."""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from ...parallel.partition import ShardSpec
from ..errors import CheckpointError
from .blocks import BlockReader, verify_file
from .dtypes import ITEM_SIZES, convertible
from .folder import read_manifest
from .fragment import Fragment
from .manifest import BLOCK_BYTES, Manifest, SavedTensor
from .slices import Box, chunks, global_boxes, strides
from .storage import in_words
from .strict_json import damaged
from .writer import live_box

MOST_LISTED = 5  # differences in one message


class Copy(NamedTuple):
    """Elements to bring from a file to live storage; sorts in file order."""

    file: str
    offset: int  # byte of the first element
    span: int  # elements from the first to the last, both included
    steps: tuple[int, ...]  # strides of the elements in the file
    target: torch.Tensor
    dtype: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load did on this rank.

    Args:
        tensors: distinct (name, kind) that were filled.
        slices: saved slices, or parts of them, that were copied.
        bytes: read from disk and verified.
        files: opened.
        seconds: of wall-clock time.
        converted: fragments whose element type changed, by `saved -> live`.
    """

    tensors: int
    slices: int
    bytes: int
    files: int
    seconds: float
    converted: Mapping[str, int]

    def summary(self) -> str:
        """One line for the log."""
        rate = f"{in_words(self.bytes)} from {self.files} files in {self.seconds:.2f} s"
        changed = "".join(f", {count} as {change}" for change, count in self.converted.items())
        return f"loaded {self.tensors} tensors from {self.slices} slices: {rate}{changed}"


class Checkpoint:
    """A checkpoint whose manifest and file sizes are right; its blocks are checked when they are read.

    Args:
        folder: it lies here.
        manifest: of that folder, as `read_manifest` gives it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        self._tensors = {(tensor.name, tensor.kind): tensor for tensor in manifest.tensors}

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """The checkpoint in a folder.

        Raises:
            CheckpointError: there is none, it is damaged, or of another version.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is no checkpoint folder", do="give the path of a folder step-*", file=str(folder))
        return cls(folder, read_manifest(folder))

    @property
    def manifest(self) -> Manifest:
        """All that the checkpoint says about itself."""
        return self._manifest

    @property
    def step(self) -> int:
        """Optimizer steps that were done."""
        return self._manifest.step

    @property
    def samples_seen(self) -> int:
        """Training samples that were used."""
        return self._manifest.samples_seen

    @property
    def config(self) -> Mapping[str, object]:
        """The part of the configuration that must agree."""
        return self._manifest.config

    @property
    def extra(self) -> Mapping[str, object]:
        """What the engine saved beside its tensors."""
        return self._manifest.extra

    @property
    def tensors(self) -> Mapping[tuple[str, str], SavedTensor]:
        """Saved tensors by (name, kind)."""
        return self._tensors

    def load(
        self, fragments: Iterable[Fragment], *, kinds: Collection[str] | None = None, names: Collection[str] | None = None
    ) -> LoadReport:
        """Fill every fragment from the checkpoint.

        Each block that is touched is read once and checked before a byte of it is used. Local elements that no piece of the shard
        names stay as they are. After an error the fragments are in an undefined state: load another checkpoint, or stop.

        Args:
            fragments: of this rank, on any layout.
            kinds: only fragments of these kinds are filled; None: all.
            names: the parameters of the whole model; given, a saved parameter that is not among them is refused.

        Raises:
            DamagedError: a block fails its checksum.
            CheckpointError: a tensor is missing, unknown, or of another shape: it is the checkpoint of another model.
        """
        begun = time.monotonic()
        wanted = [fragment for fragment in fragments if kinds is None or fragment.kind in kinds]
        self._check_model(wanted, names)
        copies = sorted((copy for fragment in wanted for copy in self._copies(fragment)), key=lambda copy: copy[:2])
        count, files = self._fill(copies)
        return LoadReport(
            tensors=len({(fragment.name, fragment.kind) for fragment in wanted}),
            slices=len(copies),
            bytes=count,
            files=files,
            seconds=time.monotonic() - begun,
            converted=Counter(f"{saved} -> {live}" for saved, live in map(self._dtypes, wanted) if saved != live),
        )

    def read_tensor(self, name: str, kind: str = "parameter") -> torch.Tensor:
        """One whole tensor, on the host.

        Raises:
            CheckpointError: there is none of that name and kind, or it is damaged.
        """
        saved = self._tensors.get((name, kind))
        if saved is None:
            raise CheckpointError(f"{self.folder} holds no {kind} {name}", do="see `hexareme inspect`", file=str(self.folder))
        whole = torch.empty(saved.shape, dtype=getattr(torch, saved.dtype))
        self.load([Fragment(name, kind, ShardSpec.whole(saved.shape), 0, whole.view(-1))])
        return whole

    def verify(self, *, share: int = 0, shares: int = 1) -> int:
        """Check every block of every file, or of this caller's share of the files.

        Args:
            share, shares: of the files in order, those at positions share, share + shares, ...

        Returns:
            Bytes that were checked.

        Raises:
            DamagedError: naming the file and what is wrong with it.
        """
        mine = sorted(self._manifest.files)[share::shares]
        for name in mine:
            verify_file(self.folder / name, self._manifest.files[name])
        return sum(self._manifest.files[name].size for name in mine)

    def _dtypes(self, fragment: Fragment) -> tuple[str, str]:
        return self._tensors[fragment.name, fragment.kind].dtype, fragment.dtype

    def _check_model(self, wanted: list[Fragment], names: Collection[str] | None) -> None:
        faults = list(dict.fromkeys(fault for fragment in wanted if (fault := self._fault(fragment))))  # once for each tensor
        if names is not None:
            strangers = [saved for saved in self._manifest.tensors if saved.kind == "parameter" and saved.name not in names]
            faults += [f"{saved.name} {list(saved.shape)} of the checkpoint is not in the model" for saved in strangers]
        if faults:
            more = f"; and {len(faults) - MOST_LISTED} more" if len(faults) > MOST_LISTED else ""
            raise CheckpointError(
                f"{self.folder} is the checkpoint of another model: {'; '.join(faults[:MOST_LISTED])}{more}",
                do="set model.* and optimizer.name as in that run's config.yaml, or use another run.name",
                file=str(self.folder),
            )

    def _fault(self, fragment: Fragment) -> str | None:
        """Why the checkpoint cannot fill a fragment, or None."""
        shape, saved = list(fragment.shard.shape), self._tensors.get((fragment.name, fragment.kind))
        label = fragment.name if fragment.kind == "parameter" else f"{fragment.name} ({fragment.kind})"
        if saved is None:
            return f"{label} {shape} is not in the checkpoint"
        if list(saved.shape) != shape:
            return f"{label} is {list(saved.shape)} in the checkpoint and {shape} here"
        if not convertible(saved.dtype, fragment.dtype):
            return f"{label} is {saved.dtype} in the checkpoint and {fragment.dtype} here"
        return None

    def _copies(self, fragment: Fragment) -> Iterator[Copy]:
        """What brings a fragment home: its boxes, cut by the saved slices, in pieces that fit into a block."""
        saved = self._tensors[fragment.name, fragment.kind]
        size = ITEM_SIZES[saved.dtype]
        missing = 0
        for placed in global_boxes(fragment.shard, fragment.start, fragment.tensor.numel()):
            live = live_box(fragment, placed.local_starts, placed.box.shape)
            missing += placed.box.size
            for part in saved.slices:
                common = placed.box.intersection(part.box)
                if common is None:
                    continue
                missing -= common.size
                steps = strides(part.box.shape)
                for chunk in chunks(common.shape, steps, BLOCK_BYTES // size):
                    here = Box(tuple(a + b for a, b in zip(common.starts, chunk.starts, strict=True)), chunk.shape)
                    offset = part.offset + here.offset_in(part.box) * size
                    span = 1 + sum((length - 1) * step for length, step in zip(chunk.shape, steps, strict=True))
                    yield Copy(part.file, offset, span, steps, _sub_box(live, placed.box, here), saved.dtype)
        if missing:
            raise damaged(self.folder, f"{missing} elements of {fragment.name} ({fragment.kind}) are in no slice")

    def _fill(self, copies: list[Copy]) -> tuple[int, int]:
        """Copy in file order; returns bytes read and files opened."""
        by_file: dict[str, list[Copy]] = defaultdict(list)
        for copy in copies:
            by_file[copy.file].append(copy)
        count = 0
        for name, group in by_file.items():
            with closing(BlockReader(self.folder / name, self._manifest.files[name])) as reader:
                for copy in group:
                    content = reader.read(copy.offset, copy.offset + copy.span * ITEM_SIZES[copy.dtype])
                    elements = torch.frombuffer(content, dtype=getattr(torch, copy.dtype))
                    copy.target.copy_(elements.as_strided(copy.target.shape, copy.steps))
                count += reader.bytes_read
        return count, len(by_file)


def _sub_box(live: torch.Tensor, outer: Box, inner: Box) -> torch.Tensor:
    """The view of `inner`, where `live` is the view of `outer`."""
    starts = [start - base for start, base in zip(inner.starts, outer.starts, strict=True)]
    return live[tuple(slice(start, start + length) for start, length in zip(starts, inner.shape, strict=True))]
