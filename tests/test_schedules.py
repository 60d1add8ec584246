"""Every schedule at every step against diffusers' own."""

import pytest
import torch
from diffusers.optimization import get_scheduler

from customize.schedules import SCHEDULES, Span, factor


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_equal_to_diffusers(name, warmup_steps):
    span = Span(max_train_steps=20, warmup_steps=warmup_steps, num_cycles=3, power=2.0, learning_rate=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=span.learning_rate)
    theirs = get_scheduler(
        name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=20, num_cycles=3, power=2.0
    ).lr_lambdas[0]
    assert [factor(name, step, span) for step in range(20)] == pytest.approx([theirs(step) for step in range(20)], abs=1e-12)
