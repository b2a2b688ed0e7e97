"""The nearest point of a known manifold, by optimisation from several starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcnn_fast.attacks.checks import check_count, check_number
from hcnn_fast.manifolds.manifold import Coded, Decoder, LatentBox

STEP_SIZE = 0.1  # learning rate of Adam, as a share of the sides of the box
POLISHES = 20  # Gauss-Newton steps from the best code of Adam
DIFFERENCE = 1e-6  # of finite differences in float64, as a share of the sides of the box


@dataclass(frozen=True)
class Projection:
    """The nearest points that were found.

    Attributes:
        code: [N, Z] in the box.
        point: [N, *image].
        residual: [N] float64, l2 distance to the point, an upper bound of that to the manifold.
        start: [N] int64, which of the starts led there; 0 is the given code.
    """

    code: Tensor
    point: Tensor
    residual: Tensor
    start: Tensor


def project(
    images: Tensor,  # [N, *image]
    decoder: Decoder,
    coded: Coded,
    *,
    box: LatentBox,
    starts: int = 8,
    steps: int = 100,
    step_size: float = STEP_SIZE,
    seed: int = 0,
) -> Projection:
    """Minimise ||dec(z, c) - image||_2 over codes z in the box, the condition c held.

    The residual bounds the distance to the manifold from above: an optimiser may stop short, and
    another condition may come nearer.

    Start 0 is the given code, the others are uniform in the box. Adam moves all of them for half
    of the steps, then the better half of each image's for the rest; damped Gauss-Newton steps, in
    float64, polish the best. No residual is above that of the given code.

    Args:
        images: [N, *image] points off the manifold.
        decoder: of the manifold; takes float64 codes as well.
        coded: [N, Z] first codes, such as those of the images before they were attacked, and [N]
            conditions.
        box: where codes are valid.
        starts: for each image.
        steps: of Adam.
        step_size: its learning rate, as a share of the sides of the box; falls to 0.
        seed: of the random starts.

    Raises:
        TypeError, ValueError: an argument is not usable; the message names it.
    """
    check_count("starts", starts)
    check_count("steps", steps)
    check_number("step_size", step_size, 0.0, 1.0)
    if len(coded.code) != len(images) or len(coded.condition) != len(images):
        counts = f"{len(coded.code)} codes and {len(coded.condition)} conditions"
        raise ValueError(f"coded has {counts}, expected one for each of {len(images)} images")
    with torch.inference_mode(False), torch.enable_grad():
        target = images.detach().clone()  # [N, *image]
        first = coded.code.detach().to(target)  # [N, Z]
        box = box.like(first)
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand((starts - 1, *first.shape), generator=generator).to(first)
        random = torch.lerp(box.lower, box.upper, share)  # [S - 1, N, Z]
        code = torch.cat([box.clamp(first)[None], random])  # [S, N, Z]
        search = _Search(target, decoder, coded.condition.clone(), box)
        label = torch.arange(starts, device=first.device)[:, None].expand(-1, len(first))  # [S, N]
        early = steps // 2 if starts > 1 else 0
        code, residual = search.descend(code, early, step_size)
        if early:
            order = residual.argsort(dim=0, stable=True)[: -(-starts // 2)]  # [s, N]
            code = code.gather(0, order[..., None].expand(-1, -1, first.shape[1]))
            label = label.gather(0, order)
        code, residual = search.descend(code, steps - early, step_size)
        best = residual.argmin(dim=0)  # [N]
        row = torch.arange(len(first), device=first.device)  # [N]
        ends = torch.stack([box.clamp(first), search.polish(code[best, row])])  # [2, N, Z]
        with torch.no_grad():
            points = torch.stack([decoder(end, search.condition) for end in ends])  # [2, N, *image]
        left = (points - target).flatten(2).double().norm(dim=2)  # [2, N]
        moved = (left[1] < left[0]).long()  # [N], 0 where rounding alone was gained or lost
    return Projection(
        code=ends[moved, row],
        point=points[moved, row],
        residual=left[moved, row],
        start=label[best, row] * moved,
    )


class _Search:
    """Adam on many codes at once, each on its own."""

    def __init__(
        self,
        target: Tensor,  # [N, *image]
        decoder: Decoder,
        condition: Tensor,  # [N]
        box: LatentBox,
    ) -> None:
        self.target, self.decoder, self.condition, self.box = target, decoder, condition, box

    def descend(
        self,
        code: Tensor,  # [S, N, Z]
        steps: int,
        step_size: float,
    ) -> tuple[Tensor, Tensor]:  # [S, N, Z], [S, N]
        """The best iterates, the first ones included, and their residuals."""
        side = self.box.upper - self.box.lower  # [Z]
        share = (code - self.box.lower) / side.clamp_min(torch.finfo(code.dtype).tiny)
        leaf = share.clone().requires_grad_()  # [S, N, Z] so all coordinates move alike
        optimiser = torch.optim.Adam([leaf], lr=step_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
        best, least = code, code.new_full(code.shape[:2], torch.inf)  # [S, N, Z], [S, N]
        for step in range(steps + 1):
            now = self.box.clamp(self.box.lower + side * leaf)  # [S, N, Z]
            residual = self._residuals(now)  # [S, N]
            better = residual.detach() < least
            best = torch.where(better[..., None], now.detach(), best)
            least = torch.where(better, residual.detach(), least)
            if step == steps:
                break
            (leaf.grad,) = torch.autograd.grad(residual.square().sum(), leaf)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                leaf.clamp_(0.0, 1.0)
        return best, least

    def polish(
        self,
        code: Tensor,  # [N, Z]
    ) -> Tensor:  # [N, Z]
        """Damped Gauss-Newton steps (Levenberg and Marquardt), clipped to the box, while they help.

        The Jacobian has few columns, so finite differences are cheap; and a decoder with kinks, as
        bilinear sampling has, only makes a step fail, which is then damped more.
        """
        z, box = code.double(), self.box.like(code.double())
        side = box.upper - box.lower  # [Z]
        damping = torch.full_like(z[:, 0], 1e-3)  # [N]
        with torch.no_grad():
            off = self._off(z)  # [N, D]
            for _ in range(POLISHES):
                columns = []
                for k in range(z.shape[1]):
                    tiny = torch.zeros_like(z)  # [N, Z]
                    inward = torch.where(z[:, k] < box.upper[k] - DIFFERENCE * side[k], 1.0, -1.0)
                    tiny[:, k] = inward * DIFFERENCE * side[k]
                    columns.append((self._off(z + tiny) - off) * (inward / DIFFERENCE)[:, None])
                jacobian = torch.stack(columns, 2)  # [N, D, Z] in shares of the box
                square = jacobian.mT @ jacobian  # [N, Z, Z]
                ridge = damping[:, None] * square.diagonal(dim1=1, dim2=2) + 1e-12  # [N, Z]
                pull = (jacobian.mT @ off[..., None])[..., 0]  # [N, Z]
                step = torch.linalg.solve(square + torch.diag_embed(ridge), -pull)  # [N, Z]
                moved = box.clamp(z + side * step)  # [N, Z]
                there = self._off(moved)  # [N, D]
                better = there.norm(dim=1) < off.norm(dim=1)  # [N]
                z, off = (
                    torch.where(better[:, None], new, old)
                    for new, old in ((moved, z), (there, off))
                )
                damping = torch.where(better, damping / 3.0, damping * 4.0)
        rounded = self.box.clamp(z.to(code))  # [N, Z]
        kept = self._residuals(rounded[None]) <= self._residuals(code[None])  # [1, N]
        return torch.where(kept[0][:, None], rounded, code)

    def _off(
        self,
        code: Tensor,  # [N, Z] float64
    ) -> Tensor:  # [N, D] float64
        """What is missing between the decoded codes and the targets."""
        return (self.decoder(code, self.condition) - self.target.double()).flatten(1)

    def _residuals(
        self,
        code: Tensor,  # [S, N, Z]
    ) -> Tensor:  # [S, N]
        """l2 distances of the decoded codes from the targets."""
        starts, count = code.shape[:2]
        image = self.decoder(code.flatten(0, 1), self.condition.repeat(starts))  # [S * N, *image]
        off = image.view(starts, count, -1) - self.target.flatten(1)
        return off.square().sum(-1).clamp_min(torch.finfo(off.dtype).tiny).sqrt()
