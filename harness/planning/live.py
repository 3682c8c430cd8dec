"""Live bytes of a computation, storage by storage, as a caching allocator would have to hold them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.planning.allocator import Block, CachingAllocator, rounded
from harness.planning.replay import Event, Replay, What
from harness.planning.work import Work

WEIGHTS, GRADIENTS, OPTIMISER, ACTIVATIONS, TEMPORARIES, PAGED = KINDS = (
    "weights",
    "gradients",
    "optimiser",
    "activations",
    "temporaries",
    "paged",
)
"""What bytes are there for: ``activations`` were made by the forward pass, ``temporaries`` by what came after it.

``paged`` is optimiser state in memory that CUDA moves out of the GPU where room is needed; it counts in no peak.
"""

DEVICE = torch.ops.prim.device.default
"""Asks a fake tensor's device, 70 of 100 operations of a plan; answered here, for the way through torch is long."""
COUNT = 1.0
"""What a number without a value is read as, such as AdamW's count of steps, on which no size depends.

A yes or no is read as yes: no token is padding, and dropout of whole modules leaves them in.
"""


@dataclass
class Moment:
    """The live bytes of one moment by what they are there for."""

    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    where: str = ""
    """The part of the step, such as ``backward``."""

    @property
    def total(self) -> int:
        """Return the bytes on the GPU."""
        return sum(self.bytes.values()) - self.bytes[PAGED]


@dataclass
class _Storage:
    number: int
    """Of no other storage, unlike its address."""
    size: int
    kind: str
    block: Block | None
    reference: Any
    """The weak reference, whose callback ends this entry."""


class LiveMemory(TorchDispatchMode):
    """Counts the storage of each tensor that an operation returns until nothing refers to it any more.

    Views share a storage, which is counted once. Where `allocator` is given, each storage is rounded up to its blocks
    and asked of it; else bytes are as they are.
    """

    def __init__(self, allocator: CachingAllocator | None = None) -> None:
        super().__init__()
        self.now, self.peak = Moment(), Moment()
        self.work: Work | None = None
        """Notes what is computed from when it is set."""
        self.allocator = allocator
        self._kind = WEIGHTS
        self._known: dict[int, _Storage] = {}
        self._made = 0
        self._events: list[Event] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it returns."""
        if func is DEVICE and isinstance(args[0], FakeTensor) and not args[0].fake_mode.in_kernel_invocation:
            return args[0].fake_device
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return args[0].dtype is torch.bool or COUNT
        found = func(*args, **(kwargs or {}))
        if self.work is not None:
            self.work.note(func, args, kwargs or {}, found)
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return found

    @contextmanager
    def part(self, where: str, kind: str) -> Iterator[None]:
        """Name the part of the step that runs inside, and what is made in it."""
        before = self.now.where, self._kind
        self.now.where, self._kind = where, kind
        try:
            yield
        finally:
            self.now.where, self._kind = before

    def hold(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count tensors as `kind`, also those that were counted as something else."""
        for tensor in tensors:
            entry = self._count(tensor)
            self.now.bytes[entry.kind] -= entry.size
            self.now.bytes[kind] += entry.size
            entry.kind = kind
            self._note(What.named, entry)

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Have the step inside followed by the same one, which finds what this one leaves; the peak is that one's."""
        events: list[Event] = []
        self._events = events
        yield
        self._events = None
        replay = Replay(self.now.bytes, PAGED, self.allocator)
        replay.run(events, {entry.number for entry in self._known.values()})
        self.peak = Moment(replay.peak, replay.where)

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = Moment(dict(self.now.bytes), self.now.where)

    def _count(self, tensor: Tensor) -> _Storage:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._add(key, storage)
        return self._known[key]

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        size = rounded(size) if self.allocator is not None and size else size
        block = self.allocator.allocate(size) if self.allocator is not None and size else None
        self._made += 1
        entry = _Storage(self._made, size, self._kind, block, weakref.ref(storage, self._forgetter(key)))
        self._known[key] = entry
        self.now.bytes[self._kind] += size
        self._note(What.made, entry)
        if self.now.total > self.peak.total:
            self.restart()

    def _forgetter(self, key: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            entry = self._known.pop(key)
            self.now.bytes[entry.kind] -= entry.size
            self._note(What.freed, entry)
            if entry.block is not None and self.allocator is not None:
                self.allocator.free(entry.block)

        return forget

    def _note(self, what: What, entry: _Storage) -> None:
        if self._events is not None:
            self._events.append(Event(what, entry.number, entry.size, entry.kind, self.now.where))
