"""Optimizer steps on the same shapes again and again; on a GPU each is one replay of a captured graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from training.smol.training.network import Network

WARMUP_STEPS = 3
"""Steps before a step is captured."""

Step = Callable[[dict[str, Tensor]], Tensor]
"""The loss of chosen rows: kind -> their places."""
Groups = list[tuple[list[torch.nn.Parameter], float]]
"""Parameters and their peak rates."""


class Steps:
    """AdamW on chosen rows.

    Args:
        net: the model.
        groups: parameters and their peak rates.
        counts: kind -> rows a step.
        step: the loss of chosen rows.
    """

    def __init__(self, net: Network, groups: Groups, counts: Mapping[str, int], step: Step) -> None:
        self.net, self.step, self.done = net, step, 0
        self.learned = [p for params, _ in groups for p in params]
        for p in self.learned:
            p.requires_grad_(True)
        self.peaks = [rate for _, rate in groups]
        self.rates = [torch.tensor(rate, device=net.device) for rate in self.peaks]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": params, "lr": rate if net.on_gpu else peak}
                for (params, peak), rate in zip(groups, self.rates, strict=True)
            ],
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=net.on_gpu,
            capturable=net.on_gpu,
        )
        self.chosen = {k: torch.zeros(n, dtype=torch.int64, device=net.device) for k, n in counts.items()}
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loss = torch.zeros(())

    def __call__(self, places: Mapping[str, Tensor], share: float) -> Tensor:
        """One step on the rows at some places, at a share of the peak rates; gives the loss before it."""
        for kind, index in places.items():
            self.chosen[kind].copy_(index, non_blocking=True)
        for group, rate, peak in zip(self.optimizer.param_groups, self.rates, self.peaks, strict=True):
            group["lr"] = rate.fill_(peak * share) if self.net.on_gpu else peak * share
        self.done += 1
        if not self.net.on_gpu:
            self.optimizer.zero_grad(set_to_none=True)
            self.loss = self._update()
        elif self.done <= WARMUP_STEPS:
            self.optimizer.zero_grad(set_to_none=True)
            self.loss = self._aside()
        else:
            self._replay()
        return self.loss

    def end(self) -> None:
        """Frees gradients and graph."""
        self.graph = None
        for p in self.learned:
            p.requires_grad_(False)
            p.grad = None

    def _update(self) -> Tensor:
        with torch.autocast(self.net.device.split(":")[0], torch.bfloat16, enabled=self.net.on_gpu):
            loss = self.step(self.chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.learned, 1.0)
        self.optimizer.step()
        return loss.detach()

    def _aside(self) -> Tensor:
        """A step on a side stream, as steps before a capture must be."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = self._update()
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    def _replay(self) -> None:
        if self.graph is None:
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            # rows are copied to the device meanwhile, by this thread alone
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.loss = self._update()
        self.graph.replay()
