"""kohya's folder layout: repeats and prompts from the names of folders, in the captions, the epochs and the settings of a run."""

import itertools

import pytest
from kit import prepared, settings_for, write_images

from customize.data.buckets import uses
from customize.data.examples import examine_examples, load_class_examples, load_examples
from customize.data.kohya_folder import NAME, subsets
from customize.errors import InputError
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings import derived
from customize.training import preflight


def as_kohya_reads(name: str) -> tuple[int, str]:
    """`extract_dreambooth_params` of sd-scripts: (repeats, class tokens), (0, "") for a folder that is ignored."""
    first, *rest = name.split("_")
    try:
        return int(first), "_".join(rest)
    except ValueError:
        return 0, ""


def dreambooth(folder, **changes):
    return DreamBoothSettings(instance_data_dir=str(folder), **changes)


@pytest.fixture
def dogs_and_cats(tmp_path):
    """Two images of a dog, one of which has a caption, and one of a cat."""
    write_images(tmp_path / "10_sks dog", 2)
    (tmp_path / "10_sks dog/1.txt").write_text("sks dog on the beach")
    write_images(tmp_path / "5_zwx cat", 1, seed=7)
    return tmp_path


@pytest.mark.parametrize("name", ["10_sks dog", "1_dog", "003_sks_dog", "12_1girl, solo", "7_a_b_c", "10_ 猫"])
def test_names_are_read_as_kohya_reads_them(name, tmp_path):
    write_images(tmp_path / name, 1)
    [subset] = subsets(tmp_path)
    repeats, prompt = as_kohya_reads(name)
    assert (subset.repeats, subset.prompt, subset.folder) == (repeats, prompt.strip(), tmp_path / name)


@pytest.mark.parametrize("name", ["dog", "10", "10_", "10_ ", "0_dog", "-1_dog", "x10_dog", "1.5_dog", "10 dog", "1234567_dog"])
def test_other_names_are_not_the_layout(name):
    assert NAME.fullmatch(name) is None


def test_each_image_has_the_prompt_and_the_repeats_of_its_folder(dogs_and_cats):
    settings = dreambooth(dogs_and_cats)
    examples = load_examples(settings)
    assert settings.instance_prompt == "sks dog"
    assert {example.name: (example.captions, example.repeats) for example in examples.instances} == {
        "10_sks dog/0.png": (("sks dog",), 10),
        "10_sks dog/1.png": (("sks dog on the beach",), 10),
        "5_zwx cat/0.png": (("zwx cat",), 5),
    }
    assert '10_sks dog: 2 images x 10, captions from files, prompt "sks dog" for 1' in examples.notes
    assert '5_zwx cat: 1 image x 5, prompt "zwx cat"' in examples.notes
    in_an_epoch = uses(settings, examples.instances, 512)
    assert in_an_epoch == [25] and derived.steps_per_epoch(settings, in_an_epoch, 1) == 25
    four = dreambooth(dogs_and_cats, train_batch_size=4, repeats=2, max_train_steps=None, num_train_epochs=3)
    assert derived.max_train_steps(four, in_an_epoch, 2) == 3 * -(-50 // 8)


def test_a_given_prompt_is_that_of_all_folders(dogs_and_cats):
    examples = load_examples(dreambooth(dogs_and_cats, instance_prompt="a photo of qqq"))
    assert sorted(example.captions for example in examples.instances) == [
        ("a photo of qqq",), ("a photo of qqq",), ("sks dog on the beach",),
    ]  # fmt: skip
    assert '5_zwx cat: 1 image x 5, prompt "a photo of qqq"' in examples.notes


def test_what_is_not_in_the_layout_is_said_or_read_as_before(dogs_and_cats, tmp_path):
    write_images(dogs_and_cats / "holiday", 1, seed=3)
    write_images(dogs_and_cats / ".hidden", 1, seed=4)
    examples = load_examples(dreambooth(dogs_and_cats))
    assert len(examples.instances) == 3 and any(
        "start with a number of repeats" in n and "(1): holiday" in n for n in examples.notes
    )
    write_images(dogs_and_cats, 1, seed=5)
    examples = load_examples(dreambooth(dogs_and_cats, instance_prompt="a dog"))
    assert [example.name for example in examples.instances] == ["0.png"] and examples.instances[0].repeats == 1
    with pytest.raises(InputError, match="instance_prompt"):
        dreambooth(dogs_and_cats)
    empty = tmp_path / "more/3_qux dog"
    empty.mkdir(parents=True)
    _, problems = examine_examples(dreambooth(tmp_path / "more"))
    assert [problem.what for problem in problems] == ["contains no images"] and "3_qux dog" in problems[0].where


def test_regularisation_folders_are_the_class_images(dogs_and_cats, tmp_path):
    of_class = tmp_path / "reg"
    write_images(of_class / "1_dog", 3, seed=1)
    write_images(of_class / "2_cat", 1, seed=2)
    settings = dreambooth(dogs_and_cats, class_data_dir=str(of_class))
    assert (settings.prior_preservation, settings.class_prompt, settings.num_class_images) == ("images", "dog", 4)
    classes = load_examples(settings).classes
    assert [(each.name, each.captions, each.repeats) for each in classes] == [
        *((f"1_dog/{number}.png", ("dog",), 1) for number in range(3)), ("2_cat/0.png", ("cat",), 2),
    ]  # fmt: skip
    assert load_class_examples(of_class, "dog") == classes
    assert {each.captions for each in load_class_examples(of_class, "an animal")} == {("an animal",)}
    more = dreambooth(dogs_and_cats, class_data_dir=str(of_class), num_class_images=9)
    [problem] = preflight.too_many_class_images(more, load_examples(more))
    assert problem.where == "num_class_images" and "have 4 images" in problem.what
    assert dreambooth(dogs_and_cats, class_data_dir=str(of_class), class_prompt="an animal").class_prompt == "an animal"


def test_a_new_word_in_a_name_is_a_caption_else_templates_are(tmp_path):
    words = {"placeholder_token": "<new>", "initializer_token": "toy"}
    write_images(tmp_path / "a/4_<new> toy", 1)
    write_images(tmp_path / "b/4_toy", 1)
    named, other = (
        load_examples(TextualInversionSettings(train_data_dir=str(tmp_path / folder), **words)) for folder in ("a", "b")
    )
    assert named.instances[0].captions == ("<new> toy",) and '4_<new> toy: 1 image x 4, prompt "<new> toy"' in named.notes
    assert len(other.instances[0].captions) == 20 and "4_toy: 1 image x 4, templates" in other.notes


def test_a_run_draws_images_by_their_repeats_and_encodes_the_prompts_of_all_folders(tiny_epsilon, dogs_and_cats, tmp_path):
    of_class = tmp_path / "reg"
    write_images(of_class / "1_dog", 1, seed=1)
    write_images(of_class / "1_cat", 1, seed=2)
    settings = settings_for(
        "lora", tiny_epsilon, dogs_and_cats, tmp_path / "run", instance_prompt="sks dog", class_data_dir=str(of_class),
        prior_preservation="images", class_prompt="cat", num_class_images=2, max_train_steps=10,
    )  # fmt: skip
    _, training = prepared(settings)
    prompts: dict[str, int] = {}
    for step in range(10):
        for batch in training.dataset.deal(step, [0]):
            assert training.method(batch).isfinite().all()
            for prompt in batch.prompts:
                prompts[prompt] = prompts.get(prompt, 0) + 1
    assert prompts.keys() == {"sks dog", "sks dog on the beach", "zwx cat", "dog", "cat"}
    order = [training.dataset.subject.sampler.draw(step, 0)[0] for step in range(10)]
    assert [order[:5].count(image) for image in range(3)] == [2, 2, 1] == [order[5:].count(image) for image in range(3)]
    assert len(list(itertools.groupby(order))) > 2
