"""A bundle that is real to the engine and knows two words: no training, no torch."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tasks.core.predictor import BundleManifest, Case, Predictor, read_manifest, write_cases, write_manifest

WORDS = ["[PAD]", "[UNK]", "good", "bad"]


def write_tiny_bundle(
    folder: Path, labels: list[str] | None = None, loop: str = "toy", sure: float = 4.0, broken_case: bool = False
) -> Path:
    """Write a bundle that says the last label for "good" and the first for "bad"; `sure` scales its logits."""
    names = labels or ["negative", "positive"]
    folder.mkdir(parents=True)
    onnx.save(_graph(len(names), sure), str(folder / "model.onnx"))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_manifest(folder, BundleManifest(loop, tuple(names), 1.0, 16, 0))
    write_cases(folder, [])
    texts = ["good", "bad", "nothing"]
    answers = Predictor.load(folder, 1).predict(texts).probabilities
    if broken_case:
        answers = answers[:, ::-1]
    write_cases(folder, [Case(text, tuple(map(float, row))) for text, row in zip(texts, answers, strict=True)])
    return folder


def limit_scope(folder: Path, min_closeness: float) -> Path:
    """Let a bundle answer `unknown` to texts whose largest logit, its closeness, is below a limit."""
    write_manifest(folder, dataclasses.replace(read_manifest(folder), min_closeness=min_closeness))
    return folder


def _graph(num_labels: int, sure: float) -> onnx.ModelProto:
    """Embed each token as a row of logits and average over the attended tokens."""
    table = np.zeros((len(WORDS), num_labels), dtype=np.float32)
    table[WORDS.index("good"), -1] = sure
    table[WORDS.index("bad"), 0] = sure
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["embedded", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["summed"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
        helper.make_node("Div", ["summed", "count"], ["logits"]),
        helper.make_node("ReduceMax", ["logits"], ["closeness"], axes=[1], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", num_labels]),
        helper.make_tensor_value_info("closeness", TensorProto.FLOAT, ["b"]),
    ]
    constants = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "one"),
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
