"""The batches of an epoch: their order, augmentation and mixing, and this rank's part of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trainables.augment import ALL, Augment
from trainables.parallel import Ranks, RankShare
from trainables.split import Split, sent
from trainables.targets import Mixer

# The number of batches that a GPU augments at a time: eight take as many kernel launches as one.
# Their inputs take at most _BYTES bytes; the operations on them need a few times as many.
_TOGETHER = 8
_BYTES = 2**25
# The split seed and the order seed may be equal. Without this word, the first epoch would then
# begin with the images that have noisy labels.
_ORDER = 1


class Batches:
    """The training images of a trial in augmented batches; on a GPU, several are made at a time.

    What is drawn depends on the seed, the epoch and the sizes of the batches alone: with equal
    seeds every variant sees the same images, on any number of ranks, and a resumed trial sees the
    images that it would have seen.

    Args:
        train: the images and labels.
        counts: images per batch of an epoch, all of `train` together.
        augment: makes inputs of images.
        mix: mixes the inputs and the labels of a batch.
        device: where the batches should be.
        ranks: the processes that share each batch.
    """

    def __init__(
        self,
        train: Split,
        counts: Sequence[int],
        augment: Augment,
        mix: Mixer,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self._train = train
        self._augment = augment
        self._mix = mix
        self._device = device
        self._ranks = ranks
        size = _at_a_time(max(counts) * train.images.shape[1:].numel(), device)
        self._groups = [counts[i : i + size] for i in range(0, len(counts), size)]

    def epoch(
        self, epoch: int, *, mixed: bool = True
    ) -> Iterator[tuple[RankShare, Tensor, Tensor]]:
        """Yield this rank's share of each batch of an epoch: its place, inputs and targets.

        Later yields overwrite the inputs. Without `mixed`, the targets are labels.
        """
        self._augment.start(epoch)
        self._mix.start(epoch)
        # An image may be mixed with one in another rank's share.
        whole = mixed and self._mix.mixes
        groups = [[self._ranks.share(count) for count in group] for group in self._groups]
        parts = [ALL if whole or self._ranks.size == 1 else _rows(group) for group in groups]
        counts = [sum(group) for group in self._groups]
        order = torch.split(self._order(epoch), counts)
        mine = [images[rows] for images, rows in zip(order, parts, strict=True)]
        made = self._augment.source(self._train).selections(
            sent(torch.cat(mine), self._train.rows.device), [*map(len, mine)], self._device
        )
        for group, rows, count, (images, labels) in zip(groups, parts, counts, made, strict=True):
            inputs = self._augment(images, rows, count)
            sizes = [share.count if whole else share.size for share in group]
            split = torch.split(inputs, sizes), torch.split(labels, sizes)
            for share, x, y in zip(group, *split, strict=True):
                if whole:
                    x, y = (t[share.rows] for t in self._mix(x, y))
                yield share, x, y

    def _order(self, epoch: int) -> Tensor:
        """Return the order of the images in an epoch."""
        rng = np.random.default_rng((self._augment.seed, epoch, _ORDER))
        return torch.from_numpy(rng.permutation(len(self._train)))


def _at_a_time(values: int, device: torch.device) -> int:
    """Return how many batches of at most `values` values are augmented at a time."""
    if device.type == "cpu":
        return 1
    return max(1, min(_TOGETHER, _BYTES // (4 * values)))


def _rows(group: Sequence[RankShare]) -> Tensor:
    """Return the places of this rank's images among those of several batches."""
    batches = torch.split(torch.arange(sum(s.count for s in group)), [s.count for s in group])
    return torch.cat([batch[s.rows] for batch, s in zip(batches, group, strict=True)])
