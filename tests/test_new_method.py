"""A method is two files: `new_method/`, which trains the biases of the denoiser, goes through a whole run from these alone."""

from pathlib import Path

import pytest
import torch

import customize
from customize import methods

HERE = Path(__file__).parent / "new_method"


@pytest.fixture(scope="module")
def trained(tiny_epsilon, image_folder, tmp_path_factory):
    """(the result of a run of three steps that was resumed after two, the folder)."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(HERE))
    from bias_settings import BiasSettings

    patch.setattr(methods, "SETTINGS", (*methods.SETTINGS, BiasSettings))
    folder = tmp_path_factory.mktemp("bias") / "run"
    settings = BiasSettings(
        pretrained_model_name_or_path=str(tiny_epsilon), subject_prompt="a photo of sks dog", images=str(image_folder),
        output_dir=str(folder), max_train_steps=2, learning_rate=1e-2, report_to=("none",), sample_inference_steps=2,
        evaluation="loss",
    )  # fmt: skip
    customize.train(settings)
    more = settings.model_copy(update={"max_train_steps": 3, "resume_from_checkpoint": "latest"})
    yield customize.train(more), folder
    patch.undo()


def test_only_biases_of_the_denoiser_change(trained, tiny_epsilon):
    result, folder = trained
    assert result.steps == 3 and result.trigger_words == ("a photo of sks dog",)
    before, after = (customize.load_pipeline(str(path)).family.components for path in (tiny_epsilon, folder))
    for part, network in before.items():
        own = after[part].state_dict()
        changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, own[name])}
        biases = {name for name, _ in network.named_parameters() if name.endswith(".bias")}
        assert changed <= biases and (len(changed) > 20) == (part == "unet"), part


def test_it_leaves_samples_a_card_and_a_checkpoint_of_the_biases(trained):
    from customize.storage import checkpoint

    _, folder = trained
    assert (folder / "before_after.png").exists() and "by bias, 3 steps" in (folder / "README.md").read_text()
    learned = checkpoint.load(folder / "checkpoints/step-000003").learned
    assert learned and all(name.startswith("unet.") and name.endswith(".bias") for name in learned)


def test_the_settings_imply_the_method(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    from bias_settings import BiasSettings

    monkeypatch.setattr(methods, "SETTINGS", (BiasSettings, *methods.SETTINGS))
    assert methods.settings_for({"subject_prompt"}) is BiasSettings
    assert methods.settings_for({"placeholder_token"}) is customize.TextualInversionSettings
