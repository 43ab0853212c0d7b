"""Loads a checkpoint on any layout: each fragment takes what it needs from the slices that hold it, verified first."""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from ...parallel.partition import ShardSpec
from ..errors import CheckpointError
from .accounting import Tally
from .blocks import Block, BlockReaders, blocks_of, nothing, raise_it
from .dtypes import convertible
from .folder import read_manifest
from .fragment import Fragment
from .manifest import MANIFEST, Manifest, SavedTensor
from .pieces import Piece, pieces
from .slices import Box, global_boxes
from .storage import in_words
from .strict_json import DamagedError, damaged
from .writer import live_box

MOST_LISTED = 5  # differences in one message


class Copy(NamedTuple):
    """Elements to bring from a block to live storage."""

    piece: Piece
    target: torch.Tensor


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
        tally: what of each tensor was filled, to be added up over the ranks (accounting.py).
    """

    tensors: int
    slices: int
    bytes: int
    files: int
    seconds: float
    converted: Mapping[str, int]
    tally: Tally

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
        self, fragments: Iterable[Fragment], *, kinds: Collection[str] | None = None, names: Collection[str] | None = None,
        tick: Callable[[], None] = nothing,
    ) -> LoadReport:
        """Fill every fragment from the checkpoint.

        Each block that is touched is read once and checked before a byte of it is used. Local elements that no piece of the shard
        names stay as they are. After an error the fragments are in an undefined state: load another checkpoint, or stop.

        Args:
            fragments: of this rank, on any layout.
            kinds: only fragments of these kinds are filled; None: all.
            names: the parameters of the whole model; given, a saved parameter that is not among them is refused.
            tick: called after each block.

        Raises:
            DamagedError: a block fails its checksum, or holds numbers that are not finite.
            CheckpointError: a tensor is missing, unknown, or of another shape: it is the checkpoint of another model; or the folder
                holds files that are not of the checkpoint.
        """
        begun = time.monotonic()
        wanted = [fragment for fragment in fragments if kinds is None or fragment.kind in kinds]
        self.check_listing()
        self._check_model(wanted, names)
        tally = Tally()
        by_block: dict[Block, list[Copy]] = defaultdict(list)
        for fragment in wanted:
            for block, copy in self._copies(fragment, tally):
                by_block[block].append(copy)
        readers = BlockReaders(self.folder, self._manifest.files, lambda block, content: self._use(block, content, by_block[block]))
        count = readers.run(sorted(by_block), tick=lambda _: tick())
        return LoadReport(
            tensors=len({(fragment.name, fragment.kind) for fragment in wanted}),
            slices=sum(filled.slices for filled in tally.filled.values()),
            bytes=count,
            files=len({block.file for block in by_block}),
            seconds=time.monotonic() - begun,
            converted=Counter(f"{saved} -> {live}" for saved, live in map(self._dtypes, wanted) if saved != live),
            tally=tally,
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

    def verify(self, *, tick: Callable[[int], None] = nothing, on_damage: Callable[[DamagedError], None] = raise_it) -> int:
        """Check every block of every file.

        Args:
            tick: called after each block, with its bytes.
            on_damage: called with each damage that is found; without it, the first one is raised.

        Returns:
            Bytes that were checked.

        Raises:
            DamagedError: naming the file and what is wrong with it.
        """
        return BlockReaders(self.folder, self._manifest.files).run(blocks_of(self._manifest.files), tick=tick, on_damage=on_damage)

    def check_listing(self) -> None:
        """The folder holds what its manifest lists and nothing else: nothing is passed over in silence.

        Raises:
            CheckpointError: naming what does not belong there. It is no damage: an older checkpoint must not be taken for it.
        """
        try:
            strangers = sorted(set(os.listdir(self.folder)) - {MANIFEST, *self._manifest.files})
        except OSError as error:
            raise damaged(self.folder, f"it cannot be listed: {error.strerror}") from None
        if strangers:
            listed = ", ".join(repr(name[:80]) for name in strangers[:MOST_LISTED])
            more = f" and {len(strangers) - MOST_LISTED} more" if len(strangers) > MOST_LISTED else ""
            raise CheckpointError(f"{self.folder} holds {listed}{more}, which its manifest does not list",
                                  do="move it out of the checkpoint's folder", file=str(self.folder / strangers[0]))

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

    def _copies(self, fragment: Fragment, tally: Tally) -> Iterator[tuple[Block, Copy]]:
        """What brings a fragment home: its boxes, cut by the saved slices and by the borders of blocks."""
        saved = self._tensors[fragment.name, fragment.kind]
        for placed in global_boxes(fragment.shard, fragment.start, fragment.tensor.numel()):
            live = live_box(fragment, placed.local_starts, placed.box.shape)
            missing, count = placed.box.size, 0
            for part in saved.slices:
                common = placed.box.intersection(part.box)
                if common is not None:
                    missing, count = missing - common.size, count + 1
                    for block, piece in pieces(saved, part, common):
                        yield block, Copy(piece, _sub_box(live, placed.box, piece.box))
            if missing:
                raise damaged(self.folder, f"{missing} elements of {fragment.name} ({fragment.kind}) are in no slice")
            tally.add(saved, placed.box, saved_from_here=fragment.write, slices=count)

    def _use(self, block: Block, content: memoryview, copies: Iterable[Copy]) -> None:
        """Bring a verified block home."""
        with torch.no_grad():
            for piece, target in copies:
                target.copy_(piece.elements(content, self.folder / block.file))


def _sub_box(live: torch.Tensor, outer: Box, inner: Box) -> torch.Tensor:
    """The view of `inner`, where `live` is the view of `outer`."""
    starts = [start - base for start, base in zip(inner.starts, outer.starts, strict=True)]
    return live[tuple(slice(start, start + length) for start, length in zip(starts, inner.shape, strict=True))]
