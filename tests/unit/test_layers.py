import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
    RobertaModel,
)

from configs.schema import Training
from tasks.core.layers import count_layers, depth_of, freeze_lower_layers
from tasks.core.optimizer import make_optimizer

SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
ENCODERS = {
    "bert": lambda: BertModel(BertConfig(**SMALL)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SMALL)),
    "deberta": lambda: DebertaV2Model(DebertaV2Config(**SMALL)),
    "distilbert": lambda: DistilBertModel(DistilBertConfig(vocab_size=20, dim=8, n_layers=3, n_heads=2, hidden_dim=8)),
    "llama": lambda: LlamaModel(LlamaConfig(**SMALL, num_key_value_heads=2)),
    "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=20, n_embd=8, n_layer=3, n_head=2, n_positions=16)),
}


class Net(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(8, 2)


def recipe(**changes: object) -> Training:
    return Training.model_validate({"base_model": "unused", "freeze_embeddings": False, **changes})


@pytest.mark.parametrize("name", ENCODERS)
def test_each_layer_learns_at_its_share_of_the_layer_above(name: str) -> None:
    net = Net(ENCODERS[name]())
    names = [name for name, _ in net.named_parameters()]
    assert count_layers(names) == 3
    assert {depth_of(name, 3) for name in names} == {0, 1, 2, 3}
    optimizer = make_optimizer(net, recipe(learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(names)
    expected = {0: 1.25e-4, 1: 2.5e-4, 2: 5e-4, 3: 1e-3}
    for parameter_name, parameter in net.named_parameters():
        rate = 1e-2 if parameter_name.startswith("head") else expected[depth_of(parameter_name, 3)]
        assert rates[id(parameter)] == pytest.approx(rate), parameter_name
    lowest = net.encoder.get_input_embeddings().weight  # type: ignore[operator]
    assert rates[id(lowest)] == pytest.approx(1.25e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_frozen_layers_freeze_what_lies_below_them_too(name: str) -> None:
    encoder = ENCODERS[name]()
    freeze_lower_layers(encoder, recipe(frozen_layers=2))
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (depth_of(f".{parameter_name}", 3) == 3), parameter_name


def test_more_frozen_layers_than_there_are_leave_the_head_alone() -> None:
    net = Net(ENCODERS["bert"]())
    freeze_lower_layers(net.encoder, recipe(frozen_layers=50))
    (group,) = make_optimizer(net, recipe()).param_groups
    assert [p.shape for p in group["params"]] == [torch.Size([2, 8]), torch.Size([2])]


def test_norms_biases_and_heads_do_not_decay() -> None:
    net = Net(ENCODERS["bert"]())
    for group in make_optimizer(net, recipe(weight_decay=0.1)).param_groups:
        decays = {id(p) for p in group["params"]} if group["weight_decay"] else set()
        assert all(
            (id(p) in decays) <= (p.ndim > 1 and name.startswith("encoder")) for name, p in net.named_parameters()
        )
