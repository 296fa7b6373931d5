"""Attention as it is written with PyTorch, for `make`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

FEATURES, WIDTH, HEADS = 6, 8, 2


class Fused(nn.Module):
    """torch's own function, over heads."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.project, self.head, self.causal = nn.Linear(FEATURES, 3 * WIDTH), nn.Linear(WIDTH, 3), causal

    def forward(self, x: Any) -> Any:
        batch, frames, _ = x.shape
        query, key, value = (
            part.reshape(batch, frames, HEADS, -1).transpose(1, 2) for part in self.project(x).chunk(3, -1)
        )
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.head(y.transpose(1, 2).reshape(batch, frames, WIDTH))


class Masked(nn.Module):
    """A product, a mask of -inf, a Softmax, a product; a window of three frames back is in the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(FEATURES, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Any) -> Any:
        query, key, value = self.project(x).chunk(3, -1)
        ones = torch.ones(x.shape[1], x.shape[1])
        seen = (torch.tril(ones) * torch.triu(ones, -2)).bool()
        scores = (query @ key.transpose(1, 2)) / WIDTH**0.5
        return self.head(torch.softmax(scores.masked_fill(~seen, float("-inf")), -1) @ value)


class Encoder(nn.Module):
    """Two layers of nn.TransformerEncoder with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True, norm_first=True)
        self.enter, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, 3)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Any) -> Any:
        mask = torch.triu(torch.full((x.shape[1], x.shape[1]), float("-inf")), 1)
        return self.head(self.encoder(self.enter(x), mask=mask, is_causal=True))


class Places(nn.Module):
    """A table of absolute places is added to the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = nn.Parameter(torch.randn(99, FEATURES)), nn.GRU(FEATURES, WIDTH, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.gru(x + self.table[: x.shape[1]])[0]


class Pooled(nn.Module):
    """A share for each frame, and their sum."""

    def __init__(self, product: bool) -> None:
        super().__init__()
        self.gru, self.score = nn.GRU(FEATURES, WIDTH, batch_first=True), nn.Linear(WIDTH, 1)
        self.head, self.product = nn.Linear(WIDTH, 3), product

    def forward(self, x: Any) -> Any:
        y = self.gru(x)[0]
        shares = torch.softmax(self.score(y), 1)
        return self.head(torch.bmm(shares.transpose(1, 2), y).squeeze(1) if self.product else (shares * y).sum(1))
