"""What runs a bundle's network: ONNX Runtime, OpenVINO or torch, behind one call.

`onnx-fp32` runs everywhere and is what the others are compared with. An engine's library is imported when a bundle asks
for it, so nobody pays for what they do not use.

Shapes: B texts, T tokens.
"""

import importlib.util
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from tasks.core.errors import DataError
from tasks.core.shared_weights import share_weights

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Batch = tuple[Ints, Ints]  # input_ids, attention_mask: both [B, T]
REFERENCE = "onnx-fp32"
ENGINES = (REFERENCE, "onnx-int8", "openvino-bf16", "torch-cuda")
FILES = {REFERENCE: "model.onnx", "onnx-int8": "model.int8.onnx", "openvino-bf16": "model.onnx", "torch-cuda": "torch"}
MAX_STREAMS = 4  # each holds the network's intermediate values


class EngineUnavailable(DataError):
    """This machine cannot run an engine: its library, its device or its precision is not there."""


class Engine(Protocol):
    """Runs one network. Thread-safe, and releases the interpreter lock while it computes."""

    name: str
    token_step: int  # T is padded to a multiple of it
    streams: int  # batches that it runs at the same time

    def run(self, batches: Iterable[Batch], outputs: Sequence[str]) -> list[list[Floats]]:
        """Return the named outputs of each batch, in order: `logits` [B, C], `closeness` [B]."""


class OnnxEngine:
    """ONNX Runtime, on the CPU or, where its CUDA build is installed, on the GPU."""

    token_step = 1
    streams = 1

    def __init__(self, name: str, path: Path, threads: int, share_everything: bool) -> None:
        self.name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are not ours alone
        available = onnxruntime.get_available_providers()
        providers = [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in available]
        on_cpu = providers == ["CPUExecutionProvider"]
        self.weights = share_weights(path, options, share_everything) if on_cpu else []
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)

    def run(self, batches: Iterable[Batch], outputs: Sequence[str]) -> list[list[Floats]]:
        """Return the named outputs of each batch, in order: `logits` [B, C], `closeness` [B]."""
        names = list(outputs)
        return [
            self._session.run(names, {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT})
            for input_ids_BT, attention_mask_BT in batches
        ]


class OpenVinoEngine:
    """OpenVINO on the CPU in bfloat16, from the same ONNX file: fast where the processor has AMX or AVX512-BF16.

    One batch alone gets all threads. Several run beside each other, on fewer threads each, which then hardly wait for
    one another: 12 % less processor time in batches of 32 texts, on two cores.
    """

    name = "openvino-bf16"
    token_step = 4  # it prepares itself for every new shape; larger steps would cost more in padding

    def __init__(self, path: Path, threads: int) -> None:
        openvino = _import_openvino()
        core = openvino.Core()
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineUnavailable("the processor has no bfloat16 arithmetic")
        model = core.read_model(str(path))

        def compile_for(streams: int) -> Any:
            options = {
                "INFERENCE_PRECISION_HINT": "bf16",
                "NUM_STREAMS": str(streams),
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,  # else all processes of a machine sit on the same core
            }
            return core.compile_model(model, "CPU", options)

        self.streams = min(threads or os.cpu_count() or 1, MAX_STREAMS)
        alone = compile_for(1)
        self._alone = alone.create_infer_request()
        self._beside = openvino.AsyncInferQueue(compile_for(self.streams) if self.streams > 1 else alone, self.streams)
        self._lock = threading.Lock()  # its requests are used by one caller at a time

    def run(self, batches: Iterable[Batch], outputs: Sequence[str]) -> list[list[Floats]]:
        """Return the named outputs of each batch, in order: `logits` [B, C], `closeness` [B]."""
        given = ({"input_ids": input_ids_BT, "attention_mask": mask_BT} for input_ids_BT, mask_BT in batches)
        first, second = next(given, None), next(given, None)
        if first is None:
            return []
        with self._lock:
            if second is None:
                self._alone.infer(first)
                return [_copy(self._alone, outputs)]
            found: dict[int, list[Floats]] = {}
            self._beside.set_callback(lambda request, at: found.update({at: _copy(request, outputs)}))
            for at, inputs in enumerate(chain((first, second), given)):
                self._beside.start_async(inputs, at)
            self._beside.wait_all()
            return [found[at] for at in range(len(found))]


def open_engine(name: str, folder: Path, threads: int = 0, share_everything: bool = False) -> Engine:
    """Return a bundle's engine; `threads` bounds its threads (0: one per core).

    Raises EngineUnavailable where this machine cannot run it, and what the engine raises when its file is broken.
    """
    if name not in FILES:
        raise EngineUnavailable(f"this version of Evertune knows only {', '.join(ENGINES)}")
    path = folder / FILES[name]
    if name in (REFERENCE, "onnx-int8"):
        return OnnxEngine(name, path, threads, share_everything)
    if name == "openvino-bf16":
        return OpenVinoEngine(path, threads)
    return _open_torch(path)


def _copy(request: Any, outputs: Sequence[str]) -> list[Floats]:
    # Copies, as the next call overwrites them.
    return [np.array(request.get_tensor(name).data, dtype=np.float32) for name in outputs]


def explain_absence(name: str) -> str | None:
    """Return why this machine cannot even try an engine, or None."""
    if name == "openvino-bf16" and importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed"
    if name == "torch-cuda":
        try:
            _torch_engine().check_device("cuda")
        except EngineUnavailable as error:
            return str(error)
    return None


def _import_openvino() -> Any:
    # Its import reports to its maker through this package, unasked; without the package it has a silent stand-in.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: an import of it fails
    try:
        import openvino
    except ImportError as error:
        raise EngineUnavailable("the package openvino is not installed") from error
    return openvino


def _open_torch(folder: Path) -> Engine:
    engine: Engine = _torch_engine().TorchEngine(folder, "cuda")
    return engine


def _torch_engine() -> Any:
    try:
        from tasks.core import torch_engine  # the one way on which the service may come to torch: pyproject.toml
    except ImportError as error:
        raise EngineUnavailable(f"the package {error.name} is not installed") from error
    return torch_engine
