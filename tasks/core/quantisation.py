"""An int8 copy of a graph: the weights of its matrix products, one scale per column; activations as they come."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCOPE_WEIGHTS = "whitening"  # of the distance that tells texts out of scope: squares of int8 would be far off


def quantise(model: Path, target: Path) -> None:
    """Write the graph with int8 weights (dynamic quantisation, per channel).

    Embedding tables stay float32: to look a row up costs nothing, and all versions share the table.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(model))
    partial = target.with_suffix(".partial")
    with _quiet_root_logger():
        quantize_dynamic(
            graph,
            partial,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in graph.graph.node if SCOPE_WEIGHTS in node.input],
        )
    partial.replace(target)


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """The quantiser tells the root logger of every tensor, and gives it a handler where it has none."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silent)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)
