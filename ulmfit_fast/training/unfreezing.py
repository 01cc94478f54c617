"""Which layers train, and when: layer groups, depth blocks, unfreezing. For any ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ulmfit_fast.core.errors import InputError


def layer_groups(model: nn.Module) -> list[nn.Module]:
    """A model's layer groups, first (most general) to last (most specific).

    What the model's own ``layer_groups()`` says; for a model without one, its direct children that hold parameters, and
    for a model without children the model itself.

    Raises:
        InputError: a parameter of the model is in none of its groups.
    """
    own = getattr(model, "layer_groups", None)
    if callable(own):
        groups = list(own())
    else:
        groups = [child for child in model.children() if any(True for _ in child.parameters())] or [model]
    covered = {id(p) for group in groups for p in group.parameters()}
    missing = [name for name, p in model.named_parameters() if id(p) not in covered]
    if missing:
        raise InputError(
            f"layer_groups: {type(model).__name__} has parameters outside its groups: {', '.join(missing)}; give the "
            "model a layer_groups() method that covers them"
        )
    return groups


def depth_layers(model: nn.Module) -> list[nn.Module]:
    """A model's layers by depth, first to last, finer than ``layer_groups``: each item of a stack is one.

    What the model's own ``layer_groups()`` says. For a model without one, its children in the order of definition,
    where ``nn.Sequential`` and ``nn.ModuleList``, and modules that hold an ``nn.ModuleList`` of two or more layers, are
    taken apart. So a BERT becomes [embeddings], [layer 0], ..., [pooler], a ResNet its stem, each residual block, and
    the classifier. Parameters that belong to no child come before the children, as a layer of their own.

    Raises:
        InputError: as ``layer_groups``; a model without parameters.
    """
    if callable(getattr(model, "layer_groups", None)):
        return layer_groups(model)
    layers = _taken_apart(model)
    if not layers:
        raise InputError(f"depth_layers: {type(model).__name__} has no parameters")
    return layers


def _taken_apart(module: nn.Module) -> list[nn.Module]:
    """The layers of a module that is one layer no longer."""
    layers: list[nn.Module] = []
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    if own:
        layers.append(nn.ParameterList(own) if any(True for _ in module.children()) else module)
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList) or any(map(_is_stack, child.modules())):
            layers += _taken_apart(child)
        elif any(True for _ in child.parameters()):
            layers.append(child)
    return layers


def _is_stack(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) and sum(any(True for _ in item.parameters()) for item in module) > 1


def block_numbers(count: int, blocks: int) -> list[int]:
    """The block of each of ``count`` layers, first to last; block 0 is the last layers.

    Block k has the layers ``count * k // blocks`` to ``count * (k + 1) // blocks``, counted from the last. So there are
    ``blocks`` of them (``count``, where there are fewer layers), and their sizes differ by one at most.

    Raises:
        InputError: no layers, fewer than one block.
    """
    if count < 1 or blocks < 1:
        raise InputError(f"block_numbers: layers and blocks must be at least 1, got {count} and {blocks}")
    blocks = min(blocks, count)
    starts = [count * k // blocks for k in range(blocks + 1)]
    from_the_last = [k for k, (start, stop) in enumerate(pairwise(starts)) for _ in range(start, stop)]
    return from_the_last[::-1]


def depth_blocks(layers: Sequence[nn.Module], blocks: int) -> list[nn.Module]:
    """Layers joined to ``blocks`` blocks of about equal numbers of layers, first to last (``block_numbers``).

    PaddleHub's ``dis_blocks`` and ``frz_blocks`` mean this. Its first block for rates has one layer too many, and it
    makes fewer blocks than asked where the number of layers is no multiple; with more blocks than layers its first
    epoch of gradual unfreezing trains nothing.

    Raises:
        InputError: no layers, fewer than one block.
    """
    numbers = block_numbers(len(layers), blocks)
    joined: dict[int, list[nn.Module]] = {}
    for layer, number in zip(layers, numbers, strict=True):
        joined.setdefault(number, []).append(layer)
    return [own[0] if len(own) == 1 else nn.ModuleList(own) for own in joined.values()]


class Unfreezing:
    """Base: which layer groups train in an epoch. Call ``start_epoch`` before each epoch.

    Every parameter belongs to the optimizer from the start; a frozen one gets no gradient and is left alone.

    Args:
        groups: first to last, as ``layer_groups`` gives them.
        freeze_batch_norm: BatchNorm layers of frozen groups are frozen, too: their parameters, and (in eval mode) their
            statistics. Then call ``model.train()`` before ``start_epoch`` and not after it. False: they train always,
            as in fastai.

    Raises:
        InputError: no groups.
    """

    def __init__(self, groups: Sequence[nn.Module], freeze_batch_norm: bool = False) -> None:
        if not groups:
            raise InputError(f"{type(self).__name__}: groups is empty")
        self.groups = list(groups)
        self.freeze_batch_norm = freeze_batch_norm

    def positions(self, epoch: int) -> range:
        """Which groups train in ``epoch``, counted from 0."""
        raise NotImplementedError

    def start_epoch(self, epoch: int) -> int:
        """Freeze and unfreeze for ``epoch``, counted from 0; returns how many groups train."""
        return train_only(self.groups, self.positions(epoch), self.freeze_batch_norm)

    def _last(self, count: int) -> range:
        return range(len(self.groups) - min(len(self.groups), count), len(self.groups))


class GradualUnfreezing(Unfreezing):
    """Trains the last layer group first and one more with each epoch.

    Args:
        groups: first to last, as ``layer_groups`` gives them.
        groups_per_epoch: groups that join with each epoch.
        freeze_batch_norm: as ``Unfreezing``.

    Raises:
        InputError: no groups, groups_per_epoch below 1.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3.
    """

    def __init__(self, groups: Sequence[nn.Module], groups_per_epoch: int = 1, freeze_batch_norm: bool = False) -> None:
        super().__init__(groups, freeze_batch_norm)
        if groups_per_epoch < 1:
            raise InputError(f"GradualUnfreezing: groups_per_epoch must be at least 1, got {groups_per_epoch}")
        self.groups_per_epoch = groups_per_epoch

    def trainable_groups(self, epoch: int) -> int:
        """How many of the last groups train in ``epoch``, counted from 0."""
        return min(len(self.groups), 1 + epoch * self.groups_per_epoch)

    def positions(self, epoch: int) -> range:
        return self._last(self.trainable_groups(epoch))


class ScheduledUnfreezing(Unfreezing):
    """Trains so many of the last layer groups in each epoch.

    Args:
        groups: first to last, as ``layer_groups`` gives them.
        counts: of groups that train, an epoch each; the last one holds for all further epochs. More than there are
            groups means all.
        freeze_batch_norm: as ``Unfreezing``.

    Raises:
        InputError: no groups, no counts, a count below 1.
    """

    def __init__(self, groups: Sequence[nn.Module], counts: Sequence[int], freeze_batch_norm: bool = False) -> None:
        super().__init__(groups, freeze_batch_norm)
        if not counts or min(counts) < 1:
            raise InputError(f"ScheduledUnfreezing: counts must be numbers of at least 1, got {list(counts)}")
        self.counts = list(counts)

    def positions(self, epoch: int) -> range:
        return self._last(self.counts[min(epoch, len(self.counts) - 1)])


class StepwiseUnfreezing(Unfreezing):
    """Trains the last layer group first and one more every so many steps. Call ``start_step`` before each step.

    Args:
        groups: first to last, as ``layer_groups`` gives them.
        every: steps, at least 1.
        freeze_batch_norm: as ``Unfreezing``.

    Raises:
        InputError: no groups, every below 1.
    """

    def __init__(self, groups: Sequence[nn.Module], every: int, freeze_batch_norm: bool = False) -> None:
        super().__init__(groups, freeze_batch_norm)
        if every < 1:
            raise InputError(f"StepwiseUnfreezing: every must be at least 1, got {every}")
        self.every = every

    def positions(self, epoch: int) -> range:
        raise InputError("StepwiseUnfreezing goes by steps: call start_step(step) before each step, not start_epoch")

    def positions_at(self, step: int) -> range:
        """Which groups train in ``step``, counted from 0 over all epochs."""
        return self._last(1 + step // self.every)

    def start_step(self, step: int) -> int:
        """Freeze and unfreeze for ``step``, counted from 0 over all epochs; returns how many groups train."""
        return train_only(self.groups, self.positions_at(step), self.freeze_batch_norm)


class ChainThaw(Unfreezing):
    """Trains one layer group at a time: the last, the first, the second and so on; then all of them together.

    With n groups the first n epochs train one each. Otherwise as ``GradualUnfreezing``.

    Args:
        groups: first to last, as ``layer_groups`` gives them.
        freeze_batch_norm: as ``Unfreezing``.

    Source: Felbo et al., arXiv 1708.00524, section 3.3, in the order of its authors' code; beside gradual unfreezing
    in arXiv 1801.06146, section 5.
    """

    def trainable_groups(self, epoch: int) -> range:
        """Which groups train in ``epoch``, counted from 0."""
        count = len(self.groups)
        if epoch >= count:
            return range(count)
        alone = count - 1 if epoch == 0 else epoch - 1
        return range(alone, alone + 1)

    def positions(self, epoch: int) -> range:
        return self.trainable_groups(epoch)


_MANY = 1 << 30  # groups: all that there are

# Unfreezing by its name, as the configurations have it: layer groups, whether BatchNorm is frozen -> Unfreezing.
UNFREEZING: dict[str, Callable[[Sequence[nn.Module], bool], Unfreezing]] = {
    "gradual": lambda groups, frozen: GradualUnfreezing(groups, 1, frozen),
    "fastai": lambda groups, frozen: ScheduledUnfreezing(groups, [1, 2, 3, _MANY], frozen),
    "chain-thaw": lambda groups, frozen: ChainThaw(groups, frozen),
    "last": lambda groups, frozen: ScheduledUnfreezing(groups, [1], frozen),
    "all": lambda groups, frozen: ScheduledUnfreezing(groups, [_MANY], frozen),
}


def named_unfreezing(
    name: str, groups: Sequence[nn.Module], every: int = 0, freeze_batch_norm: bool = False
) -> Unfreezing:
    """Unfreezing by its name.

    Args:
        name: "gradual": the last group first, one more each epoch; "fastai": the last one, two, three, then all;
            "chain-thaw"; "last": the last group alone; "all": everything at once.
        groups: first to last, as ``layer_groups`` or ``depth_blocks`` gives them.
        every: with "gradual": one more group every so many steps instead; 0: every epoch.
        freeze_batch_norm: as ``Unfreezing``.

    Raises:
        InputError: an unknown name; no groups; ``every`` with another name.
    """
    if name not in UNFREEZING:
        raise InputError(f"named_unfreezing: name must be one of {', '.join(UNFREEZING)}, got {name!r}")
    if every and name != "gradual":
        raise InputError(f"named_unfreezing: every={every} goes with 'gradual', not with {name!r}")
    if every:
        return StepwiseUnfreezing(groups, every, freeze_batch_norm)
    return UNFREEZING[name](groups, freeze_batch_norm)


def train_only(groups: Sequence[nn.Module], trainable: Sequence[int], freeze_batch_norm: bool = False) -> int:
    """Freeze all groups but these, by their positions; returns how many train."""
    for position, group in enumerate(groups):
        if position not in trainable:
            set_trainable(group, False, freeze_batch_norm)
    for position in trainable:  # last: a parameter shared with a frozen group trains
        set_trainable(groups[position], True, freeze_batch_norm)
    return len(trainable)


def set_trainable(group: nn.Module, trainable: bool, freeze_batch_norm: bool = False) -> None:
    """Freeze or unfreeze a group's parameters.

    BatchNorm stays trainable either way; with ``freeze_batch_norm`` it goes with its group, in eval mode while frozen.
    """
    group.requires_grad_(trainable)
    for module in group.modules():
        if isinstance(module, _BatchNorm):
            if freeze_batch_norm:
                module.train(trainable)
            else:
                module.requires_grad_(True)
