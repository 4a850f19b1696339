"""Product quantization with a straight-through gradient: parts of a code become entries of codebooks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProductQuantizer(nn.Module):
    """Codebooks (M, K, d / M), one for each of the M equal parts of a code.

    Args:
        dim: d, the channels of the code.
        parts: M, which divides d.
        entries: K, the vectors of each codebook, drawn by Xavier's uniform distribution.
    """

    def __init__(self, dim: int, parts: int, entries: int) -> None:
        super().__init__()
        if dim % parts:
            raise ValueError(f"dim must be a multiple of parts: {dim} is not one of {parts}")
        books = [nn.init.xavier_uniform_(torch.empty(entries, dim // parts)) for _ in range(parts)]
        self.codebooks = nn.Parameter(torch.stack(books))

    def split(self, code: Tensor) -> Tensor:
        """Return the parts of a code (B, d, h, w), each of unit length: (M, B·h·w, d / M)."""
        parts = code.movedim(1, -1).flatten(0, 2).unflatten(1, (len(self.codebooks), -1)).transpose(0, 1)
        return F.normalize(parts, dim=2)

    def join(self, parts: Tensor, like: Tensor) -> Tensor:
        """Return parts (M, B·h·w, d / M) as a map of the shape of `like`."""
        b, _, h, w = like.shape
        return parts.transpose(0, 1).flatten(1).view(b, h, w, -1).movedim(-1, 1).contiguous()

    @torch.no_grad()
    def nearest(self, parts: Tensor) -> Tensor:
        """Return the entry with the largest cosine for each part, int64 (M, B·h·w)."""
        return (parts @ F.normalize(self.codebooks, dim=2).transpose(1, 2)).argmax(dim=2)

    def entries(self, index: Tensor) -> Tensor:
        """Return the entries of these numbers, (M, B·h·w, d / M), not normalized."""
        return self.codebooks.gather(1, index[..., None].expand(-1, -1, self.codebooks.shape[2]))

    def quantize(self, code: Tensor) -> Tensor:
        """Return the quantized code, (B, d, h, w)."""
        return self.join(self.entries(self.nearest(self.split(code))), code)

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the quantized code, the codebook and commitment losses, and the entries used, bool (M, K).

        The value of the quantized code is that of the entries; its gradient goes to the normalized code, as
        if nothing had been quantized. The codebook loss has a gradient to the codebooks only, the commitment
        loss to the code only. Both are means over parts, places and channels.
        """
        parts = self.split(code)
        index = self.nearest(parts)
        chosen = self.entries(index)
        through = parts + (chosen - parts).detach()
        codebook = F.mse_loss(chosen, parts.detach())
        commitment = F.mse_loss(parts, chosen.detach())
        used = torch.zeros(self.codebooks.shape[:2], dtype=torch.bool, device=code.device)
        used.scatter_(1, index, True)
        return self.join(through, code), codebook, commitment, used
