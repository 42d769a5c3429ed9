"""Large weights that several loaded models have in common, held once per process.

At export an index (`weights.json`) says where each large tensor of a graph lies in its file, and the hash of its bytes.
Whoever loads a second model takes a tensor with a known hash from the first one: versions of a loop share a frozen
embedding table, loops with adapters on one base model share its layers.
"""

import hashlib
import json
import threading
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

INDEX = "weights.json"
MIN_BYTES = 256 * 1024  # a smaller tensor is not worth an entry


@dataclass(frozen=True)
class Tensor:
    """Where a graph's float32 tensor lies, and what it is."""

    name: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    digest: str  # SHA-256 of its bytes
    only_looked_up: bool  # nothing but Gather reads it: the engine then makes no packed copy of its own


class Weight:
    """A tensor in memory, for as long as a session holds it."""

    def __init__(self, values: npt.NDArray[np.float32]) -> None:
        self.values = values
        self.value: Any = onnxruntime.OrtValue.ortvalue_from_numpy(values, "cpu")  # refers to the memory of `values`


_held: "weakref.WeakValueDictionary[str, Weight]" = weakref.WeakValueDictionary()
_lock = threading.Lock()


def index_weights(paths: Iterable[Path], min_bytes: int = MIN_BYTES) -> None:
    """Write the index of the graphs' large tensors beside them; the files must all lie in one folder."""
    files = list(paths)
    found = {path.name: [asdict(tensor) for tensor in _find_tensors(path, min_bytes)] for path in files}
    target = files[0].with_name(INDEX)
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(target)


def share_weights(path: Path, options: Any, everything: bool) -> list[Weight]:
    """Let a session take its large tensors from what the process already holds; return what it must keep alive.

    `everything` also shares those that the engine would pack into a copy of its own, and forbids it that copy: less
    memory, slower small batches. A bundle without an index shares nothing.
    """
    index = path.with_name(INDEX)
    if not index.is_file():
        return []
    listed = json.loads(index.read_text(encoding="utf-8")).get(path.name, [])
    tensors = [Tensor(**{**fields, "shape": tuple(fields["shape"])}) for fields in listed]
    chosen = [tensor for tensor in tensors if everything or tensor.only_looked_up]
    weights = []
    for tensor in chosen:
        weights.append(_hold(path, tensor))
        options.add_initializer(tensor.name, weights[-1].value)
    if everything:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return weights


def _hold(path: Path, tensor: Tensor) -> Weight:
    with _lock:
        weight = _held.get(tensor.digest)
        if weight is None:
            # Read, not mapped: tensors lie anywhere in the file, and the engine may want them aligned.
            count = int(np.prod(tensor.shape))
            values = np.fromfile(path, dtype=np.float32, count=count, offset=tensor.offset).reshape(tensor.shape)
            weight = _held[tensor.digest] = Weight(values)
    return weight


def _find_tensors(path: Path, min_bytes: int) -> list[Tensor]:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    content = path.read_bytes()
    tensors = []
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if tensor.data_type != onnx.TensorProto.FLOAT or len(raw) < min_bytes:
            continue
        place, name = content.find(raw), tensor.name
        if place >= 0:
            digest = hashlib.sha256(raw).hexdigest()
            tensors.append(Tensor(name, tuple(tensor.dims), place, digest, readers.get(name) == {"Gather"}))
    return tensors
