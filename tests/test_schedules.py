"""Every schedule at every step against diffusers' own."""

import pytest
import torch
from diffusers.optimization import get_scheduler
from kit import settings_for

from customize.optim.lr_schedules import SCHEDULES, Span, factor, step_rules
from customize.settings import derived

RULES = "1:10,0.1:15,0.01"


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_equal_to_diffusers(name, warmup_steps):
    span = Span(max_train_steps=20, warmup_steps=warmup_steps, num_cycles=3, power=2.0, learning_rate=0.01, step_rules=RULES)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=span.learning_rate)
    theirs = get_scheduler(
        name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=20, num_cycles=3, power=2.0, step_rules=RULES
    ).lr_lambdas[0]
    assert [factor(name, step, span) for step in range(20)] == pytest.approx([theirs(step) for step in range(20)], abs=1e-12)


@pytest.mark.parametrize("rules", ["1:10,0.1:20,0.01", "1", "0:5,1", "0.5:20,2:3,0.1:7,0", " 1 : 4 , 0.5:8,0.25", "1e-1:2,1e1"])
def test_pieces_are_those_of_diffusers(rules):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = get_scheduler("piecewise_constant", optimizer, step_rules=rules).lr_lambdas[0]
    span = Span(max_train_steps=30, warmup_steps=3, step_rules=rules)
    assert [factor("piecewise_constant", step, span) for step in range(30)] == [theirs(step) for step in range(30)]


@pytest.mark.parametrize(
    "rules", ["", "1:10", "x", "1:10,,0.1", "1:0,1", "1:-3,1", "-1:3,1", "nan:3,1", "1:3,inf", "1:3,1:3,1", "1:2.5,1"]
)
def test_invalid_pieces_are_reported(rules):
    with pytest.raises(ValueError, match="is not|twice"):
        step_rules(rules)


def test_a_run_of_a_constant_rate_may_be_extended_when_text_encoders_have_a_rate_of_their_own(tmp_path):
    """What identifies the run holds its schedule, and the number of steps only where the schedule depends on it."""
    given = {"train_text_encoder": True, "text_encoder_learning_rate": (1e-5,), "max_train_steps": 7}
    settings = settings_for("lora", tmp_path, tmp_path, tmp_path / "run", **given)
    found = derived.learning_rates(settings, [3], 1)
    assert found == {"learning_rate": 1e-3, "text_encoder_learning_rate": 1e-5, "lr_scheduler": "constant", "lr_warmup_steps": 0}
    cosine = settings.model_copy(update={"lr_scheduler": "cosine"})
    assert derived.learning_rates(cosine, 3, 1) == {
        **found,
        "lr_scheduler": "cosine",
        "max_train_steps": 7,
        "lr_warmup_steps": cosine.lr_warmup_steps,
    }
