"""Small networks of one's own: convolutions, vision transformers, a diffusion transformer.

Each is built as torchvision, timm and diffusers build theirs. `NETS` says where the modules have
their channels, by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    """A block of torchvision's ResNet: one ReLU in place, run three times, of two widths."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2, self.bn3 = nn.BatchNorm2d(inner), nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(Bottleneck(8, 4), Bottleneck(8, 4))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.avgpool(self.layer1(self.stem(x))), 1))


class Lenet(nn.Module):
    """The network of the tutorials: every activation is a function in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 7, 3)
        self.drop, self.fc1, self.fc2 = nn.Dropout2d(), nn.Linear(7 * 4, 9), nn.Linear(9, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = self.drop(functional.relu_(self.conv2(x)))
        return self.fc2(torch.tanh(self.fc1(functional.adaptive_avg_pool2d(x, 2).flatten(1))))


class LayerNorm2d(nn.LayerNorm):
    """timm's: a layer norm of (batch, channels, height, width)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.pwconv1 = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.act, self.pwconv2 = nn.GELU(), nn.Linear(2 * width, width)
        self.drop_path = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.act(self.pwconv1(y)))
        return x + self.drop_path(y.permute(0, 3, 1, 2))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = (
            heads,
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.attn_drop = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = self.attn_drop((q @ k.transpose(-2, -1)).softmax(dim=-1))
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


class SwinBlock(nn.Module):
    """Attention in windows of four positions; (batch, height, width, channels)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        parts = torch.roll(self.norm1(x), (-1, -1), (1, 2)).view(b, h // 2, 2, w // 2, 2, c)
        parts = parts.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        seen = self.attn(parts).view(b, h // 2, w // 2, 2, 2, c)
        x = x + torch.roll(seen.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c), (1, 1), (1, 2))
        return x + self.mlp(x)


class UNet(nn.Module):
    """Down and up again, with a time embedding and a squeeze-and-excitation gate."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(4, 8), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 6, 2, 2), nn.InstanceNorm2d(6), nn.Mish())

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        small = self.down(x)
        small = small + self.time(t)[:, :, None, None]
        return self.up(torch.cat([small, small * self.gate(small)], dim=1))


class DiffusionBlock(nn.Module):
    """A block of a diffusion transformer: norms modulated by the condition, F.gelu."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attn, self.fc1, self.fc2 = Attention(width), nn.Linear(width, 24), nn.Linear(24, width)
        self.modulation = nn.Linear(width, 4 * width)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        shift, scale, gate, more = self.modulation(functional.silu(c))[:, None].chunk(4, dim=-1)
        x = x + gate * self.attn(self.norm(x) * (1 + scale) + shift)
        return x + more * self.fc2(functional.gelu(self.fc1(self.norm(x)), approximate="tanh"))


class DiffusionTransformer(nn.Module):
    def __init__(self, kind: type[nn.Sequential | nn.ModuleList] = nn.ModuleList) -> None:
        super().__init__()
        self.patch, self.time = nn.Conv2d(3, 12, 2, 2), nn.Linear(4, 12)
        self.blocks = kind([DiffusionBlock(12), DiffusionBlock(12)])
        self.out = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        tokens, c = self.patch(x).flatten(2).transpose(1, 2), self.time(timestep)
        for block in self.blocks:
            tokens = block(tokens, c)
        made = self.out(tokens).view(batch, height // 2, width // 2, 2, 2, 3)
        return made.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, height, width)


class Speech(nn.Module):
    """A stem of 1-D convolutions, as Whisper has, a causal one, as Mamba has, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act = nn.Conv1d(5, 8, 3, padding=1), nn.GELU()
        self.conv2, self.drop = nn.Conv1d(8, 8, 3, 2, 1), nn.Dropout(0.0)
        self.causal, self.norm = nn.Conv1d(8, 8, 4, padding=3, groups=8), nn.LayerNorm(8)
        self.attn = Attention(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv2(functional.gelu(self.conv1(x))))
        x = self.drop(x.permute(0, 2, 1))
        y = self.causal(x.transpose(1, 2))[..., : x.shape[1]]
        return x + self.attn(self.norm(functional.silu(y).transpose(1, 2)))


class Net(NamedTuple):
    """How to build and call a network, and where its modules have their channels.

    ``first`` are the modules with channels in dimension 1 of tensors with more than two dimensions,
    all others have them last. ``activations``, with the dimension of their channels, are in the
    order of the forward pass; a function is named after its caller.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    first: Sequence[str]
    activations: Mapping[str, int]

    def made(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        net = self.build().eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.normal_(module.running_mean)
                nn.init.normal_(module.weight)
        return net

    def given(self, seed: int = 1, batch: int = 3) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(batch, *shape, generator=generator) for shape in self.inputs]

    def dim_of(self, path: str, n_dims: int) -> int:
        """Return the dimension of a module's channels, -1 for the last."""
        is_first = n_dims > 2 and any(fnmatchcase(path, pattern) for pattern in self.first)
        return 1 if is_first else -1


def _video() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.Hardswish(), nn.MaxPool3d(2),
        nn.Flatten(), nn.Linear(48, 5),
    )  # fmt: skip


def _convnext() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 8, 2, 2), LayerNorm2d(8))
    return nn.Sequential(stem, ConvNextBlock(8), nn.Sequential(ConvNextBlock(8)))


class _ToTokens(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1)


def _swin() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), _ToTokens(), SwinBlock(8), SwinBlock(8))


IMAGE = (3, 8, 8)
_RELUS = {f"layer1.{block}.relu{run}": 1 for block in (0, 1) for run in ("", "_1", "_2")}
_DIFFUSION = {f"blocks.{block}.{name}": -1 for block in (0, 1) for name in ("silu", "gelu")}
NETS: dict[str, Net] = {
    "resnet": Net(ResNet, (IMAGE,), ("stem", "layer1*", "avgpool"), _RELUS),
    "lenet": Net(Lenet, (IMAGE,), ("conv*", "drop"), {"relu": 1, "relu_1": 1, "tanh": -1}),
    "convnext": Net(
        _convnext, (IMAGE,), ("0*", "1", "*dwconv", "*drop_path", "2", "2.0"),
        {"1.act": -1, "2.0.act": -1},
    ),
    "swin": Net(_swin, (IMAGE,), ("0",), {"2.mlp.1": -1, "3.mlp.1": -1}),
    "unet": Net(
        UNet, (IMAGE, (4,)), ("down*", "gate*", "up*"),
        {"down.2": 1, "time.1": -1, "gate.2": 1, "up.2": 1},
    ),
    "diffusion": Net(DiffusionTransformer, (IMAGE, (4,)), ("patch",), _DIFFUSION),
    "speech": Net(
        Speech, ((5, 12),), ("conv*", "act", "causal"), {"gelu": 1, "act": 1, "silu": 1}
    ),
    "video": Net(_video, ((2, 4, 4, 4),), ("0", "1", "2", "3"), {"2": 1}),
}  # fmt: skip
