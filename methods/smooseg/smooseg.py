"""SmooSeg: Smoothness Prior for Unsupervised Semantic Segmentation (Lan et al., NeurIPS 2023).

The file reads like the paper's Section 3. Equation numbers are the paper's; its Eq. 1, the smoothness
term with hard labels, is what Eqs. 2 to 4 make differentiable. Where the released code differs from
the text its behavior is the default, and `spec.toml` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.nn.mean_teacher import MeanTeacher
from uss_bench.nn.prototypes import cosine_logits


@dataclass(kw_only=True)
class SmooSeg(MeanTeacher):
    """A projector, and two sets of K prototypes: student and teacher.

    The loop, which is Algorithm 1, is that of `MeanTeacher`, whose defaults are this method's.
    """

    b_intra: float = -0.02
    """Shift of W within an image: b1 of Eq. 4."""
    b_inter: float = 0.5
    """Shift of W across images: b2 of Eq. 4."""
    tau: float = 0.1
    """Temperature of the teacher's assignment, Eq. 5."""
    weight_intra: float = 1.0
    """Of E_smooth within images; 0 leaves it out, as Table 4 does with each term in turn."""
    weight_inter: float = 1.0
    """Of E_smooth across images."""
    weight_data: float = 1.0
    global_offset: bool = True
    """Keep the batch-wide mean similarity in W, as the released code does and Eq. 2 does not."""
    closeness_dropout: bool = True
    """Compute W from dropped-out features, as the released code does."""

    def losses(self, f: Tensor, partner: Tensor) -> dict[str, Tensor]:
        """Return the terms of Eq. 7 whose weight is not 0, unweighted, by name.

        They are the two halves of E_smooth (Eq. 4, as means over pairs), which have a gradient to the
        projector only, and E_data (Eq. 6, as a mean over patches), which has one to the student's
        prototypes only.

        Args:
            f: features (B, D, h, w).
            partner: the other image i' of each image i, int64 (B,).
        """
        z = self.net.projector(f)
        teacher = cosine_logits(z, self.net.teacher)
        student = cosine_logits(z.detach(), self.net.student)  # A^s of Eq. 5, before its softmax

        # A^t of Eq. 5, normalized as Eq. 3 asks.
        a = F.normalize(torch.softmax(teacher / self.tau, dim=1), dim=1).flatten(2)
        x = F.dropout2d(f, self.dropout, training=self.net.training and self.closeness_dropout)
        x = F.normalize(x, dim=1, eps=1e-10).flatten(2)
        intra, inter = smoothness(x, a, partner, self.b_intra, self.b_inter, self.global_offset)
        data = F.cross_entropy(student, teacher.argmax(dim=1))
        terms = {"intra": intra, "inter": inter, "data": data}
        return {name: term for name, term in terms.items() if getattr(self, f"weight_{name}")}


def smoothness(
    x: Tensor, a: Tensor, partner: Tensor, b_intra: float, b_inter: float, global_offset: bool
) -> tuple[Tensor, Tensor]:
    """Return the halves of E_smooth (Eq. 4): means over the patch pairs within images, and across them.

    A pair (p, q) of patches of images i and j contributes (W_pq − b) · δ_pq (Eqs. 2–4). The closeness
    W_pq = x_p·y_q − mean_q(x_p·y_q) + g, with g the mean similarity over the whole batch (or 0), and
    the label penalty δ_pq = 1 − a_p·c_q (Eq. 3) are both inner products. So the mean over all N² pairs
    factorises: all that it needs of an image is Σ_p x_p a_pᵀ, Σ_p a_p and the mean of x, which are
    formed once and serve the image in every pair. No N × N matrix is ever made.

    Args:
        x: normalized features, (B, D, N), without gradient.
        a: normalized assignments of the same patches, (B, K, N).
        partner: the other image i' of each image i, int64 (B,).
        b_intra, b_inter: shifts of W within an image and across images.
        global_offset: whether g is kept.
    """
    patches = x.shape[2]
    x_a = torch.bmm(x, a.transpose(1, 2))  # (B, D, K)
    a_sum, x_mean = a.sum(2), x.mean(2)

    def mean_over(other: Tensor | slice, b: float) -> Tensor:
        y_c, c_sum, y_mean = x_a[other], a_sum[other], x_mean[other]
        g = (x_mean * y_mean).sum(1).mean() if global_offset else x_mean.new_zeros(())
        # Σ over pairs of (W − g) · a·c: as y_c loses mean_q y, so W loses its mean over q.
        agreement = (x_a * (y_c - y_mean[:, :, None] * c_sum[:, None])).sum((1, 2))
        return (g - b) - ((agreement + (g - b) * (a_sum * c_sum).sum(1)) / patches**2).mean()

    return mean_over(slice(None), b_intra), mean_over(partner, b_inter)
