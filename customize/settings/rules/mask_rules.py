"""Rules about masks. See `rule.py`."""

from collections.abc import Iterator

from customize.errors import Problem
from customize.settings.rules.rule import rule

PRIOR = "masked_prior_preservation_weight"


@rule("unmasked_weight", PRIOR)
def outside_has_one_target(unmasked_weight: float, prior_weight: float) -> Iterator[Problem]:
    """Outside of masks, either the image or the base model's prediction is the target."""
    if unmasked_weight and prior_weight:
        what = "cannot be combined with unmasked_weight: one has the base model as the target outside of masks, one the image"
        yield Problem(PRIOR, what, "leave one of the two out")


@rule(PRIOR, "adapter")
def masked_prior_has_an_adapter(prior_weight: float, adapter: str) -> Iterator[Problem]:
    """The base model predicts as the network without its adapter."""
    if prior_weight and adapter == "none":
        yield Problem(PRIOR, "needs an adapter that can be switched off", "set adapter = lora, or use unmasked_weight")


@rule(PRIOR)
def words_have_no_masked_prior(prior_weight: float) -> Iterator[Problem]:
    """New words alone leave the network as it is, so that there is nothing to preserve."""
    if prior_weight:
        yield Problem(
            PRIOR, "has no meaning here: new words do not change the base model", "leave it out, or use unmasked_weight"
        )
