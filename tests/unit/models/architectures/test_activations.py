"""Layers, lists of layers, and which activations belong to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distviz.models.architectures.activations import (
    find_activations,
    module_lists,
    place_of,
    shared_modules,
)


class Mlp(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)
        self.act = activation


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down_proj = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.relu(self.up(x)).square())


class Layer(nn.Module):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp


class Attention(nn.Module):
    pass


def named(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_modules(remove_duplicate=False))


def test_the_outermost_list_is_the_one_of_the_layers() -> None:
    lists = {"model.layers", "model.layers.0.experts"}
    assert place_of("model.layers.3.experts.7.act", lists) == ("model.layers", 3)
    assert place_of("model.layers.3", lists) is None
    assert place_of("model.embed.act", lists) is None


def test_a_list_in_a_list_holds_the_layers_of_its_elements() -> None:
    lists = {"stages", "stages.0", "stages.1"}
    assert place_of("stages.1.5.mlp", lists) == ("stages.1", 5)


def test_sequences_are_lists_if_their_elements_attend() -> None:
    def layer() -> nn.Module:
        one = Layer(nn.Identity())
        one.attention = Attention()
        return one

    model = nn.Module()
    model.blocks = nn.Sequential(layer(), layer())
    model.mlp = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model.layers = nn.ModuleList()
    assert module_lists(named(model)) == {"blocks", "layers"}


def test_an_activation_of_all_layers_belongs_to_each() -> None:
    shared = nn.SiLU()
    model = nn.Module()
    model.layers = nn.ModuleList(Layer(Mlp(shared)) for _ in range(2))
    modules = named(model)
    found = list(find_activations(modules, {"layers"}))
    assert [place for place, _ in found] == [("layers", 0), ("layers", 1)]
    assert [one.holder for _, one in found] == ["layers.0.mlp", "layers.1.mlp"]
    assert shared_modules(modules, [place for place, _ in found]) == {id(shared)}


def test_a_layer_with_two_paths_is_listed_once() -> None:
    layer = Layer(Mlp(nn.SiLU()))
    model = nn.Module()
    model.layers = nn.ModuleList([layer, layer])
    assert len(list(find_activations(named(model), {"layers"}))) == 1


def test_functions_are_searched_only_where_no_module_is() -> None:
    model: Any = nn.Module()
    model.layers = nn.ModuleList([Layer(Mlp(nn.SiLU())), Layer(Functional())])
    (first, module), (second, function) = find_activations(named(model), {"layers"})
    assert (first, module.name, module.is_complete) == (("layers", 0), "SiLU", True)
    assert (second, function.name) == (("layers", 1), "ReLUSquared")
    sites = {site.site: (site.module, site.chain) for site in function.sites}
    assert sites["act"] == ("layers.1.mlp", ("relu", "square"))
    assert sites["product"] == ("layers.1.mlp.down_proj", ())
