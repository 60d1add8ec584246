"""Schedule-free AdamW: an average of the steps in place of a schedule (Defazio et al. 2024, "The Road Less Scheduled").

The gradient is taken at y, between the average x and the weights z that take the steps; the result is x.
"""

from typing import TYPE_CHECKING

from customize.optim.optimizers import Groups, Usual, adamw, option

if TYPE_CHECKING:
    import torch


class Settings(adamw.Settings):
    """Those of AdamW; beta1 says where between z and x the gradient is taken."""

    adam_beta1: float = option(0.9, adamw.BETA1, gt=0, lt=1)


class Optimizer(Usual):
    """That of schedulefree. Between the steps, the parameters hold x."""

    summary = "schedule-free AdamW: the result is an average of the steps, for a constant rate"
    package = "schedulefree"
    counters = ("k", "weight_sum", "lr_max", "scheduled_lr")

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        from schedulefree import AdamWScheduleFree

        from customize.optim.averaging import ScheduleFree

        optimizer = AdamWScheduleFree(groups, **adamw.options_of(settings))
        optimizer.train()
        return ScheduleFree(optimizer)
