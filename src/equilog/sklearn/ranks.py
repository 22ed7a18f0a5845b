"""One network over several processes: each rank computes its share of a batch, and all of them have the whole."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel


class SharedNetwork:
    """A network whose every rank is given the same batch, computes the logits of its share and gets those of all.

    What follows the logits is then the same on every rank and the same as in one process, whatever a loss makes of
    the rows: means, pools of any kind, pairs of rows. Only the network is shared out, which is where the time goes.
    """

    def __init__(self, network: nn.Module, group: dist.ProcessGroup) -> None:
        self.network = DistributedDataParallel(network, process_group=group)
        self.group = group

    def __call__(self, features: Tensor) -> Tensor:
        """Return the logits (n, C) of features (n, d); a backward pass leaves every rank the whole's gradients."""
        world, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        shares = features.tensor_split(world)
        mine: Tensor = self.network(shares[rank])
        # The first share is the longest; a collective's parts must be of one length.
        padded = F.pad(mine.detach(), (0, 0, 0, len(shares[0]) - len(mine)))
        gathered = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(gathered, padded, group=self.group)
        logits = [part[: len(share)] for part, share in zip(gathered, shares, strict=True)]
        if mine.requires_grad:
            # The whole's gradient is the sum over ranks, of which the wrapper takes the mean.
            mine.register_hook(lambda gradient: gradient * world)  # type: ignore[no-untyped-call]
            logits[rank] = mine
        return torch.cat(logits)
