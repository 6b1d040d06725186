"""One GPU through torch: whether it can be used, how much memory it has left, and copies to and from it."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from toolkit.errors import DeviceError, MemoryBudgetError, MissingPackageError
from toolkit.memory import MemoryBudget, format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_SHARE = 0.8  # of what is free: torch's allocator and the libraries need some of their own
_LEAST_SHARE = 0.05
_NO_ROOM = "CUBLAS_STATUS_ALLOC_FAILED"  # cuBLAS found no memory for itself
_RESIDENT_SHARE = 0.2  # of the free memory: above, a matrix stays on the host
_LEAST_BYTES = 256 << 20  # free on the card, without which nothing is begun
_ALTERNATIVE = "use --device cpu"


class Device:
    """A torch device and its memory.

    Parameters
    ----------
    name : str
        ``"cuda"``, or ``"cpu"`` for the same code on CPU tensors.
    memory : str, int or None
        Bytes of the card (of the host, for CPU tensors) that may be taken; None is what is free.

    Raises
    ------
    MissingPackageError
        Without torch.
    DeviceError
        Without a card that torch can use.
    MemoryBudgetError
        If nearly all of the card is taken.

    Attributes
    ----------
    shrunk : list of str
        What had to be done in smaller pieces because memory ran out.
    """

    def __init__(self, name: str = "cuda", memory: str | int | None = None) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingPackageError(
                f"--device cuda needs the package torch, which is missing: pip install torch, or {_ALTERNATIVE}"
            ) from error
        self.torch: Any = torch
        self.limit = None if memory is None else parse_size(str(memory))
        self.shrunk: list[str] = []
        self._uploads: Any = None  # a stream and two pinned stretches of the host's memory, with their events
        self.is_cuda = name.startswith("cuda")
        if self.is_cuda:
            _check_cuda(torch)
        self.device = torch.device(name)
        if self.is_cuda:
            if self.limit is not None:
                total = torch.cuda.get_device_properties(self.device).total_memory
                torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / total), self.device)
            _check_kernels(torch, self.device)
        if self.is_cuda and self.free < _LEAST_BYTES:
            raise MemoryBudgetError(
                f"--device cuda: {format_size(max(self.free, 0))} of the card's memory are free, "
                f"{format_size(_LEAST_BYTES)} are the least to work with; stop what else runs there (nvidia-smi lists "
                f"it), raise --memory, or {_ALTERNATIVE}"
            )

    @property
    def name(self) -> str:
        """The name of the card."""
        return str(self.torch.cuda.get_device_name(self.device)) if self.is_cuda else "torch on the CPU"

    @property
    def free(self) -> int:
        """Bytes that may still be taken."""
        if not self.is_cuda:
            return MemoryBudget.resolve(self.limit).free
        cuda = self.torch.cuda
        held = cuda.memory_allocated(self.device)
        free = cuda.mem_get_info(self.device)[0] + cuda.memory_reserved(self.device) - held
        return int(free if self.limit is None else min(free, self.limit - held))

    @property
    def peak_bytes(self) -> int | None:
        """The most that torch held on the card since `reset_peak`; None on the CPU."""
        return int(self.torch.cuda.max_memory_allocated(self.device)) if self.is_cuda else None

    def reset_peak(self) -> None:
        """Begin to count `peak_bytes` anew."""
        if self.is_cuda:
            self.torch.cuda.reset_peak_memory_stats(self.device)

    def put(self, array: np.ndarray, dtype: Any = None) -> Any:
        """Return a tensor on the device with the values of an array; on the CPU it may share memory with it."""
        tensor = self.host(array)
        return tensor.to(device=self.device, dtype=dtype or tensor.dtype)

    def host(self, array: np.ndarray) -> Any:
        """Return a tensor on the host that shares the memory of an array."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that an array is read-only, as it stays
            return self.torch.from_numpy(np.ascontiguousarray(array))

    def upload(self, array: np.ndarray, turn: int) -> Any:
        """Return a tensor on the device with the values of an array, copied while the device goes on working.

        Parameters
        ----------
        array : ndarray
        turn : int
            The number of the upload: every second one shares a stretch of the host's memory that the card reads by
            itself, and waits until the one before the last was read.
        """
        if not self.is_cuda:
            return self.put(array)
        torch = self.torch
        if self._uploads is None:
            self._uploads = (torch.cuda.Stream(self.device), [None, None])
        stream, slots = self._uploads
        source = torch.from_numpy(np.ascontiguousarray(array))
        held = slots[turn % 2]
        if held is not None:
            held[1].synchronize()
        if held is None or held[0].numel() < source.numel() or held[0].dtype != source.dtype:
            held = (torch.empty(source.numel(), dtype=source.dtype, pin_memory=True), torch.cuda.Event())
        slots[turn % 2] = held
        pinned = held[0][: source.numel()].view(source.shape)
        pinned.copy_(source)
        with torch.cuda.stream(stream):
            tensor = pinned.to(self.device, non_blocking=True)
            held[1].record(stream)
        torch.cuda.current_stream(self.device).wait_event(held[1])
        tensor.record_stream(torch.cuda.current_stream(self.device))
        return tensor

    def get(self, tensor: Any) -> np.ndarray:
        """Return the values of a tensor as an array."""
        array: np.ndarray = tensor.detach().cpu().numpy()
        return array

    def with_less(self, what: str, work: Callable[[int], T]) -> T:
        """Return ``work(n_bytes)`` for as many bytes as it can have; out of memory, it is done again with half.

        Raises
        ------
        MemoryBudgetError
            If a small part of the free memory is not enough either.
        """
        share = _SHARE
        while True:
            n_bytes = int(self.free * share)
            try:
                return work(n_bytes)
            except RuntimeError as error:  # torch.OutOfMemoryError is one, and what libraries say is another
                if not isinstance(error, self.torch.OutOfMemoryError) and _NO_ROOM not in str(error):
                    raise
                first_line = str(error).splitlines()[0]
            if self.is_cuda:
                self.torch.cuda.empty_cache()
            share /= 2
            if share < _LEAST_SHARE:
                raise MemoryBudgetError(
                    f"{what} does not fit on the device, even in pieces of {format_size(n_bytes)} ({first_line}); stop "
                    f"what else runs there, lower fraction or n_components, or {_ALTERNATIVE}"
                )
            self.shrunk.append(f"{what}: pieces of {format_size(int(self.free * share))}")

    @contextlib.contextmanager
    def exact_products(self) -> Iterator[None]:
        """Let no product of float32 matrices be computed in a lower precision than float32."""
        with self._tensor_cores(allowed=False):
            yield

    @contextlib.contextmanager
    def fast_products(self) -> Iterator[None]:
        """Let products of float32 matrices take 11 bits of each value (TF32); for values that have no more."""
        with self._tensor_cores(allowed=True):
            yield

    @contextlib.contextmanager
    def _tensor_cores(self, *, allowed: bool) -> Iterator[None]:
        matmul = self.torch.backends.cuda.matmul
        name, value = ("fp32_precision", "tf32" if allowed else "ieee")
        if not hasattr(matmul, name):  # torch before 2.9; the two ways must not be mixed
            name, value = "allow_tf32", allowed  # type: ignore[assignment]
        before = getattr(matmul, name)
        setattr(matmul, name, value)
        try:
            yield
        finally:
            setattr(matmul, name, before)

    @property
    def has_tensor_cores(self) -> bool:
        """Whether products of float32 matrices can run on them."""
        return self.is_cuda and self.torch.cuda.get_device_capability(self.device) >= (8, 0)


class Rows:
    """The rows of a matrix: on the device if they take little of it, else on the host, copied as they are asked for.

    Parameters
    ----------
    device : Device
    tensor : tensor (n_rows, n_columns)
        On the host; it is moved if it fits.
    """

    def __init__(self, device: Device, tensor: Any) -> None:
        self.device, self.shape = device, tensor.shape
        self.is_resident = tensor.nbytes <= _RESIDENT_SHARE * device.free
        self.tensor = tensor.to(device.device) if self.is_resident else tensor

    @classmethod
    def empty(cls, device: Device, shape: tuple[int, int], dtype: Any) -> Rows:
        """Return rows of zeros, to be filled with `write`."""
        rows = cls(device, device.torch.zeros((0, shape[1]), dtype=dtype))
        rows.shape = shape
        rows.is_resident = 4 * shape[0] * shape[1] <= _RESIDENT_SHARE * device.free
        where = device.device if rows.is_resident else "cpu"
        rows.tensor = device.torch.zeros(shape, dtype=dtype, device=where)
        return rows

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def held_bytes(self) -> int:
        """Bytes of the device that they take."""
        return int(self.tensor.nbytes) if self.is_resident else 0

    def __getitem__(self, index: Any) -> Any:
        """Return some rows, given by a slice or by numbers on the device, as a tensor on the device."""
        if self.is_resident:
            return self.tensor[index]
        return self.tensor[index if isinstance(index, slice) else index.cpu()].to(self.device.device)

    def write(self, index: slice, columns: slice, values: Any) -> None:
        """Set some columns of some rows."""
        self.tensor[index, columns] = values.to(self.tensor.device)

    def columns(self, index: Any) -> Callable[[int, int], Any]:
        """Return what gives a stretch of the columns of some rows, without holding all of them where that is free."""
        if self.is_resident:
            return lambda start, stop: self.tensor[:, start:stop][index]
        rows = self[index]
        return lambda start, stop: rows[:, start:stop]


def _check_cuda(torch: Any) -> None:
    """Refuse, with the reason in one line, a card that cannot be used."""
    if torch.version.cuda is None:
        raise DeviceError(
            f"--device cuda: torch {torch.__version__} was built without CUDA; install a CUDA build of torch "
            f"(environment.yml), or {_ALTERNATIVE}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()
            found = torch.cuda.device_count()
    except Exception as error:  # no driver, one too old, a card that fell off the bus
        reason = " ".join(str(error).split())
        raise DeviceError(
            f"--device cuda: no GPU can be used ({reason:.300}); repair that, or {_ALTERNATIVE}"
        ) from error
    if not found:
        raise DeviceError(
            f"--device cuda: torch sees no GPU (CUDA_VISIBLE_DEVICES hides them, or none is there); repair that, or "
            f"{_ALTERNATIVE}"
        )


def _check_kernels(torch: Any, device: Any) -> None:
    """Refuse a card that torch has no code for, by running some."""
    try:
        ones = torch.ones((16, 16), device=device)
        works = float((ones @ ones).sum()) == 16**3
    except torch.OutOfMemoryError:
        return  # what is free is looked at next
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        message = f"--device cuda: the GPU does not run torch's kernels ({reason:.300}); install another build of torch"
        raise DeviceError(f"{message}, or {_ALTERNATIVE}") from error
    if not works:
        raise DeviceError(f"--device cuda: the GPU computes wrong results; look at its health, or {_ALTERNATIVE}")
