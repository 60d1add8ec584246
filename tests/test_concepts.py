"""Several concepts in one run: whose turn a step is, what it is made of, and what is said, measured and saved of each."""

import json
import signal
from collections import Counter
from dataclasses import replace

import pytest
import torch
from kit import prepared, settings_for, write_images
from safetensors import safe_open
from whole_runs import LATEST, Run

from customize.cli.flags.settings_from_files import read_settings
from customize.data.example import in_turn_of_concepts
from customize.data.examples import load_class_examples, load_examples, missing_class_images
from customize.data.samples.concept_turns import Turns, in_turn, in_words
from customize.data.samples.image_uses import uses_of_run
from customize.errors import InputError
from customize.evaluation.probe_of_several import ProbeOfSeveral
from customize.evaluation.record import MEASURES, Candidate, Evaluation, Pair, ProbePrompt, Taught, from_values, read
from customize.evaluation.verdict import verdict_of
from customize.families import locate
from customize.methods import DreamBoothSettings
from customize.settings.files import toml_file
from customize.settings.files.sharing import shared_config, shared_settings
from customize.settings.training_parts.validation_prompts import sample_prompts
from customize.storage.run_folder import METADATA
from customize.training import model_card, preflight
from customize.training.evaluating.cost import Cost, cost
from customize.training.evaluating.pictures import new_record
from customize.training.evaluating.probe_sets import sets_of
from customize.training.resume import identity

DOG, CAT = "a photo of sks dog", "a photo of ohwx cat"


@pytest.fixture
def tables(tmp_path):
    """Two concepts of three and of five images, of one shape."""
    folders = [write_images(tmp_path / name, count, seed=count) for name, count in (("dogs", 3), ("cats", 5))]
    prompts = ((DOG, "a photo of dog"), (CAT, "a photo of cat"))
    return [
        {"instance_data_dir": str(folder), "instance_prompt": prompt, "class_prompt": of_class}
        for folder, (prompt, of_class) in zip(folders, prompts, strict=True)
    ]


def settings_of(base, tables, output, **changes):
    own = {"instance_prompt": None, "instance_data_dir": None, "concept": tables}
    return settings_for("lora", base, output, output, **own, **changes)


def problems_of(**values) -> list[str]:
    with pytest.raises(InputError) as error:
        DreamBoothSettings(**values)
    return [f"{each.where}: {each.what}" for each in error.value.problems]


@pytest.mark.parametrize("shares", [(1, 1), (2, 3, 1)])
def test_each_concept_has_its_turns_in_every_round_and_counts_them(shares):
    turns, seen = Turns(shares, seed=7), Counter[int]()
    orders = set()
    for number in range(20):
        steps = range(number * sum(shares), (number + 1) * sum(shares))
        whose = [turns.at(step) for step in steps]
        assert Counter(concept for concept, _ in whose) == dict(enumerate(shares))
        for step, (concept, own) in zip(steps, whose, strict=True):
            assert own == seen[concept]
            assert [turns.of_concept(each)(step) for each in range(len(shares))] == [
                own if each == concept else None for each in range(len(shares))
            ]
            seen[concept] += 1
        orders.add(tuple(concept for concept, _ in whose))
    assert len(orders) > 1, "the order is another in each round"


def test_concepts_are_shown_equally_often_and_each_image_of_one_too(tiny_epsilon, tables, tmp_path):
    settings = settings_of(tiny_epsilon, tables, tmp_path / "run", train_batch_size=2, max_train_steps=30)
    context, training = prepared(settings)
    names = Counter(name for step in range(30) for batch in training.dataset.deal(step, range(2)) for name in batch.names)
    dogs, cats = ({name: n for name, n in names.items() if name.startswith(f"{place}/")} for place in (1, 2))
    assert sum(dogs.values()) == sum(cats.values()) == 30 and len(dogs) == 3 and len(cats) == 5
    assert set(dogs.values()) == {10} and set(cats.values()) == {6}
    uses = uses_of_run(settings, context.examples, context.resolution, 30, 2)
    assert [(each.images, each.least, each.most) for each in uses] == [(3, 10, 10), (5, 6, 6)]
    assert f'subject of "{DOG}", each shown 10 times' in str(uses[0])
    assert in_words(settings, context.examples.instances).startswith(f'"{DOG}" (3 images) and "{CAT}" (5 images) equally often')


def test_repeats_override_the_balance(tiny_epsilon, tables, tmp_path):
    """Three images twice and five once are 6 and 5 of 11 steps."""
    tables[0]["repeats"] = 2
    settings = settings_of(tiny_epsilon, tables, tmp_path / "run")
    examples = load_examples(settings, 16).instances
    assert Turns.of(settings, examples).shares == (6, 5) and {each.repeats for each in examples if not each.concept} == {2}
    assert in_words(settings, examples) == f'"{DOG}" (3 images) in 6 and "{CAT}" (5 images) in 5 of 11 steps, by repeats'


def test_samples_of_a_concept_are_in_the_order_of_a_run_of_its_own(tiny_epsilon, tables, tmp_path):
    """With its class images; the other concept has the base model as teacher, under its own class prompt."""
    write_images(tmp_path / "class", 2, seed=9)
    tables[0] |= {"prior_preservation": "images", "class_data_dir": str(tmp_path / "class"), "num_class_images": 2}
    tables[1] |= {"prior_preservation": "teacher", "prior_loss_weight": 0.25}
    settings = settings_of(tiny_epsilon, tables, tmp_path / "run", max_train_steps=12)
    _, training = prepared(settings)
    alone = {**tables[0], "max_train_steps": 12}
    _, own = prepared(settings_for("lora", tiny_epsilon, tmp_path, tmp_path / "alone", **alone))
    turns, step = Turns((1, 1), settings.seed), 0
    for number in range(12):
        concept, turn = turns.at(number)
        [batch] = training.dataset.deal(number, [0])
        subject, prior = batch.part(slice(0, 1)), batch.part(slice(1, 2))
        assert not subject.is_prior.any() and prior.is_prior.all()
        if concept:
            assert subject.prompts == (CAT,) and prior.prompts == ("a photo of cat",) and prior.names == subject.names
            assert prior.taught.all() and prior.loss_weights.item() == 0.25
            continue
        [same] = own.dataset.deal(turn, [0])
        assert batch.names == tuple(f"1/{name}" for name in same.names) and batch.prompts == same.prompts
        assert not batch.taught.any() and prior.loss_weights.item() == 1
        step += 1
    assert step == 6


def test_a_killed_run_of_several_concepts_resumes_to_the_same_bits(server, tiny_epsilon, tables, tmp_path):
    """Of several shapes, with class images that are generated."""
    write_images(tmp_path / "wide", 2, (48, 16), seed=1)
    tables[1]["instance_data_dir"] = str(tmp_path / "wide")
    tables[0] |= {"prior_preservation": "images", "class_data_dir": str(tmp_path / "class"), "num_class_images": 1}
    changes = {"instance_prompt": None, "instance_data_dir": None, "concept": tables, "sample_inference_steps": 1}
    changes["evaluation"] = "none"
    straight, killed = (
        Run(server, tmp_path / name, "lora", tiny_epsilon, tmp_path, **changes) for name in ("straight", "killed")
    )
    status, output = straight()
    assert status == 0 and f'concepts  "{DOG}" (3 images) and "{CAT}" (2 images) equally often' in output, output
    assert killed(moment="in a step", number=4)[0] == -signal.SIGKILL
    status, output = killed(*LATEST)
    assert status == 0 and "resuming after step 2" in output, output
    assert killed.result() == straight.result() and killed.losses() == straight.losses()
    facts = json.loads((straight.folder / METADATA).read_text())
    assert facts["trigger_words"] == [DOG, CAT] and str(tmp_path) not in json.dumps(facts)
    card = (straight.folder / "README.md").read_text()
    assert f"`{DOG}`, `{CAT}`" in card and f'instance_prompt: "{DOG}, {CAT}"' in card
    with safe_open(straight.folder / "pytorch_lora_weights.safetensors", "pt") as file:
        assert file.metadata()["modelspec.trigger_phrase"] == f"{DOG}, {CAT}"


@pytest.mark.slow
def test_pictures_of_each_concept_are_measured(server, tiny_epsilon, tables, tmp_path):
    own = {"instance_prompt": None, "instance_data_dir": None, "concept": tables, "keep": "last", "sample_inference_steps": 1}
    measured = {"evaluation": "pictures", "num_candidates": 1, "evaluation_seeds": 1}
    run = Run(server, tmp_path / "measured", "lora", tiny_epsilon, tmp_path, **own, **measured)
    status, output = run()
    assert status == 0 and "sks is " in output and "ohwx is " in output, output
    found = read(run.folder)
    assert [(each.trigger, each.class_word, each.photos) for each in found.concepts] == [("sks", "dog", 3), ("ohwx", "cat", 5)]
    assert [{"nearer", "drift"} & each.candidate(6).values.keys() for each in found.each()] == [{"nearer", "drift"}, {"nearer"}]


def test_prompts_of_each_concept_are_drawn(tiny_epsilon, tables, tmp_path):
    settings = settings_of(
        tiny_epsilon,
        tables,
        tmp_path / "run",
        validation_prompt=("a fox", f"{CAT} on the moon"),
        evaluation="pictures",
        adapter="lora",
    )
    context, _ = prepared(settings)
    found = new_record(context)
    assert found.concepts == (Taught("object", "sks", "dog", 3, 13), Taught("object", "ohwx", "cat", 5, 10))
    dog, cat = (Counter(prompt.kind for prompt in each.prompts) for each in found.each())
    assert dog == {"concept": 4, "bare": 1, "class": 4, "other": 4} and cat == {"concept": 5, "bare": 1, "class": 4}
    assert not any("cat" in prompt.text for prompt in found.prompts if prompt.kind == "other")
    texts = [text for own in found.prompts for text in (own.text, own.plain)]
    assert set(texts) <= set(context.measured_prompts) and f"{CAT} on the moon" in texts
    assert sample_prompts(settings_of(tiny_epsilon, tables, tmp_path / "run", validation_prompt=None)) == (DOG, CAT)
    own = settings_of(tiny_epsilon, tables, tmp_path / "run", validation_prompt=("{instance_prompt} asleep", "a fox"))
    assert sample_prompts(own) == (f"{DOG} asleep", f"{CAT} asleep", "a fox")


def test_another_concept_is_another_run(tiny_epsilon, tables, tmp_path):
    def of(**changes):
        settings = settings_of(tiny_epsilon, [tables[0], {**tables[1], **changes}], tmp_path / "run")
        return identity(settings, locate(str(tiny_epsilon)), load_examples(settings, 16), 1)

    apart = {"run", "versions", "changes"}
    first = of()
    for changes, name in (
        ({"class_prompt": "a photo of an animal"}, "concept"), ({"repeats": 2}, "concept"),
        ({"instance_prompt": "zwx"}, "concept"),
    ):  # fmt: skip
        assert {name for name in first if of(**changes)[name] != first[name]} - apart >= {name}
    moved = tmp_path / "moved"
    (tmp_path / "cats").rename(moved)
    assert {name for name in first if of(instance_data_dir=str(moved))[name] != first[name]} <= apart


def test_problems_of_all_concepts_are_in_one_report(tables):
    faulty = [
        {**tables[0], "class_promt": "x", "max_train_steps": 3},
        {**tables[0], "instance_prompt": "a photo of sks cat", "prior_preservation": "images"},
        {"instance_prompt": "a photo of ohwx fox", "repeats": 0},
    ]
    assert sorted(problems_of(concept=faulty, learning_rate=-1, instance_prompt="a photo of sks dog")) == sorted([
        "concept 1: class_promt: is not a setting",
        "concept 1: max_train_steps: is a setting of the run, not of a concept",
        "concept 2: class_data_dir: is missing: prior_preservation = images stores the class images there",
        "concept 2: instance_data_dir: is the folder of concept 1, too",
        "concept 2: instance_prompt: sks calls concept 1, too",
        "concept 3: instance_data_dir: is missing: no images to learn from",
        "concept 3: repeats: 0 is not a whole number from 1 to 10000000",
        "instance_prompt: is of one concept, and there are [[concept]] tables",
        "learning_rate: -1 is not a number above 0, at most 10",
    ])  # fmt: skip
    assert problems_of(instance_data_dir="dogs") == ["instance_prompt: is missing"]
    assert problems_of(concept=["dogs"])[0].startswith('concept: "dogs" is not a table')
    one = {**tables[0], "instance_prompt": "a photo of <a>"}
    two = {**tables[1], "instance_prompt": "a photo of <b>"}
    words = {"placeholder_token": ["<a>", "<b>"], "initializer_token": ["dog", "cat"], "adapter": "lora"}
    assert [part.placeholder_token for part in DreamBoothSettings(concept=[one, two], **words).parts] == [("<a>",), ("<b>",)]


def test_files_of_all_concepts_are_in_one_report(tiny_epsilon, tables, tmp_path):
    (tmp_path / "dogs" / "1.png").write_bytes(b"no image")
    tables[1]["instance_data_dir"] = str(tmp_path / "nowhere")
    found = preflight.examine(settings_of(tiny_epsilon, tables, tmp_path / "run")).problems
    assert [each.where.rpartition("/")[2] for each in found] == ["1.png", "nowhere"]


def test_tables_are_written_and_read_again(tables, tmp_path):
    tables[1]["repeats"] = 3
    settings = DreamBoothSettings(concept=tables, adapter="lora")
    path = tmp_path / "config.toml"
    path.write_text(settings.to_toml())
    assert DreamBoothSettings(**toml_file.read(str(path))[0]) == settings
    assert settings.to_toml().count("[[concept]]") == 2 and "instance_prompt" not in settings.to_toml().partition("[[")[0]
    assert str(tmp_path) not in shared_config(settings) + json.dumps(shared_settings(settings))
    assert shared_settings(settings)["concept"][1] == {"instance_prompt": CAT, "class_prompt": "a photo of cat", "repeats": 3}


def test_a_file_of_concepts_is_what_scripts_for_several_subjects_take(tables, tmp_path):
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps(tables))
    settings = read_settings(DreamBoothSettings, concepts_list=str(path), adapter="lora")
    assert settings == DreamBoothSettings(concept=tables, adapter="lora")
    with pytest.raises(InputError, match="settings alone read none"):
        DreamBoothSettings(concepts_list=str(path))
    for text, what in (("{}", "is no list of tables"), ("[]", "has no concepts"), ("[", "is not JSON")):
        path.write_text(text)
        with pytest.raises(InputError, match=what):
            read_settings(DreamBoothSettings, concepts_list=str(path))


def test_class_images_of_one_class_may_be_in_one_folder(tables, tmp_path):
    write_images(tmp_path / "class", 2)
    own = {"prior_preservation": "images", "class_data_dir": str(tmp_path / "class"), "num_class_images": 5}
    of_animals = [{**table, **own, "class_prompt": "a photo of an animal"} for table in tables]
    settings = DreamBoothSettings(concept=of_animals, output_dir=str(tmp_path / "run"))
    examples = load_examples(settings, 16)
    assert len(examples.classes) == 4 and missing_class_images(settings, examples) == 3 and settings.class_images == 10
    assert problems_of(concept=[{**table, **own} for table in tables]) == [
        "concept 2: class_data_dir: is the folder of concept 1, too, which has another class_prompt"
    ]


def test_fixed_samples_are_of_each_concept_in_turn(tiny_epsilon, tables, tmp_path):
    """Concepts of other shapes are cut to what all have; those of the class have the prompt of their own class."""
    write_images(tmp_path / "wide", 2, (48, 16), seed=1)
    tables[1]["instance_data_dir"] = str(tmp_path / "wide")
    context, training = prepared(settings_of(tiny_epsilon, tables, tmp_path / "run", resolution=32))
    probes = [dataset.probe(8) for dataset in training.dataset.datasets]
    assert probes[0].latents.shape != probes[1].latents.shape
    joined = in_turn(probes)
    height, width = (min(each.latents.shape[side] for each in probes) for side in (2, 3))
    for row in range(8):
        own = probes[row % 2]
        assert joined.names[row] == own.names[row] and joined.timesteps[row] == own.timesteps[row]
        assert torch.equal(joined.latents[row], own.latents[row, :, :height, :width])
        assert torch.equal(joined.noise[row], own.noise[row, :, :height, :width])
    found = sets_of(context, training, {"training": 8, "other crops": 4, "training as class": 4})
    prompts = {"1": "a photo of dog", "2": "a photo of cat"}
    assert found["training as class"].prompts == tuple(prompts[name[0]] for name in found["training as class"].names)
    assert [name[0] for name in found["other crops"].names] == ["1", "2", "1", "2"]
    names = [example.name for example in in_turn_of_concepts(context.examples.instances)]
    assert names == ["1/0.png", "2/0.png", "1/1.png", "2/1.png", "1/2.png"]


PROMPTS = (
    ProbePrompt("concept", "sks dog here", "dog here"), ProbePrompt("bare", "sks dog", "dog"),
    ProbePrompt("other", "a house", "a house"),
    ProbePrompt("concept", "ohwx cat here", "cat here"), ProbePrompt("concept", "ohwx cat there", "cat there"),
)  # fmt: skip
TAUGHT = (Taught("object", "sks", "dog", 3, 3), Taught("object", "ohwx", "cat", 5, 2))
PAIRS = tuple(Pair(place, seed) for place in range(5) for seed in (1, 2))


def evaluation_of(*likeness: float) -> Evaluation:
    """A record of two concepts of these likenesses after ten steps."""
    dog, cat = likeness
    base = {"likeness": (0.0,) * 6, "drift": (0.1, 0.1)}
    values = {"likeness": (dog, dog, cat, cat, cat, cat), "drift": (0.1, 0.1)}
    found = Evaluation("object", "sks, ohwx", "dog, cat", "s", 8, PROMPTS, PAIRS, steps=10, chosen=10, concepts=TAUGHT)
    return found.with_candidate(Candidate(0, 1.0, base)).with_candidate(Candidate(10, 1.0, values))


def test_numbers_of_a_concept_are_those_of_its_pictures():
    found = evaluation_of(0.9, 0.05)
    assert found.places() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    dog, cat = found.each()
    assert dog.candidate(10).values == {"likeness": (0.9, 0.9), "drift": (0.1, 0.1)} and dog.prompts == PROMPTS[:3]
    assert cat.candidate(10).values == {"likeness": (0.05,) * 4} and cat.pairs == tuple(
        Pair(p, s) for p in (0, 1) for s in (1, 2)
    )
    assert (cat.trigger, cat.class_word, cat.photos) == ("ohwx", "cat", 5)
    assert from_values(json.loads(found.to_json())) == found
    alone = replace(found, concepts=())
    assert alone.each() == (alone,) and alone.places() == [list(range(10))]


@pytest.mark.parametrize(
    ("likeness", "word"), [((0.9, 0.8), "learned"), ((0.9, 0.05), "partly learned"), ((0.02, 0.05), "not learned")]
)
def test_the_verdict_is_told_of_each_concept(likeness, word):
    found = verdict_of(evaluation_of(*likeness))
    assert found.word == word
    for trigger, reason, own in zip(("sks", "ohwx"), found.reasons, likeness, strict=True):
        assert reason.startswith(f"{trigger} is {'learned' if own > 0.3 else 'not learned'}: ")
    assert all(each.startswith("ohwx: ") == (word == "partly learned") for each in found.advice)


def test_each_new_word_is_measured_by_the_images_whose_captions_have_it(tiny_epsilon, tmp_path):
    folders = [write_images(tmp_path / name, count, seed=count) for name, count in (("dogs", 3), ("cats", 5))]
    (folders[1] / "4.txt").write_text("a <dog> and a <cat>")
    settings = settings_for(
        "textual_inversion", tiny_epsilon, folders[0], tmp_path / "run", train_data_dir=tuple(map(str, folders)),
        placeholder_token=("<dog>", "<cat>"), initializer_token=("dog", "cat"), evaluation="pictures", num_candidates=2,
    )  # fmt: skip
    context, training = prepared(settings)
    assert [[each.name for each in context.photos(place)] for place in (0, 1)] == [
        ["1/0.png", "1/1.png", "1/2.png", "2/4.png"], [f"2/{number}.png" for number in range(5)],
    ]  # fmt: skip
    assert new_record(context).concepts == (Taught("object", "<dog>", "dog", 4, 12), Taught("object", "<cat>", "cat", 5, 9))
    apart = [cost(settings, *each) for each in zip(settings.concepts, context.probes, (4, 5), strict=True)]
    assert context.cost_of_pictures == Cost(sum(each.start for each in apart), sum(each.each for each in apart))
    of_class = sets_of(context, training, {"training": 8, "training as class": 8})["training as class"]
    assert {(name[0], prompt) for name, prompt in zip(of_class.names, of_class.prompts, strict=True)} == {
        ("1", "a photo of dog"), ("2", "a photo of cat"),
    }  # fmt: skip


def test_each_concept_is_measured_against_its_own_photos():
    """By probes that give the sum of the pictures, so that each number tells which picture it is of."""

    class Part:
        def __init__(self, evaluation):
            self.evaluation = evaluation

        def values(self, pictures):
            assert len(pictures) == len(self.evaluation.pairs)
            own = {name: [] for name in MEASURES}
            for picture, pair in zip(pictures, self.evaluation.pairs, strict=True):
                for name, measure in MEASURES.items():
                    if self.evaluation.prompts[pair.prompt].kind == measure.of and (name, self.evaluation.trigger) != (
                        "nearer",
                        "sks",
                    ):
                        own[name].append(picture)
            return {name: tuple(numbers) for name, numbers in own.items() if numbers}

    found = evaluation_of(0, 0)
    probe = ProbeOfSeveral(*[None] * 8, parts=[Part(each) for each in found.each()])
    probe.evaluation = found
    values = probe.values(range(10))
    assert values["likeness"] == (0, 1, 6, 7, 8, 9) and values["drift"] == (4, 5) and values["background"] == (2, 3)
    assert "nearer" not in values, "what cannot be measured of one of the concepts"


def test_captions_beside_class_images_are_theirs(tiny_epsilon, image_folder, tmp_path):
    folder = write_images(tmp_path / "class", 3)
    (folder / "1.txt").write_text("a dog on grass")
    expected = {"auto": ["a photo of dog", "a dog on grass", "a photo of dog"], "prompt": ["a photo of dog"] * 3}
    own = {"prior_preservation": "images", "class_data_dir": str(folder), "class_prompt": "a photo of dog", "num_class_images": 3}
    for use, captions in expected.items():
        settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", class_image_captions=use, **own)
        assert [each.captions for each in load_examples(settings, 16).classes] == [(caption,) for caption in captions]
        assert load_class_examples(folder, "a photo of dog", use) == load_examples(settings, 16).classes
    context, training = prepared(
        settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", class_image_captions="auto", **own)
    )
    dealt = {
        (name, prompt)
        for step in range(6)
        for batch in training.dataset.deal(step, [0])
        for name, prompt, is_prior in zip(batch.names, batch.prompts, batch.is_prior, strict=True)
        if is_prior
    }
    assert dealt == {(f"{n}.png", prompt) for n, prompt in enumerate(expected["auto"])}
    of = lambda **changes: identity(  # noqa: E731
        settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **{**own, **changes}), locate(str(tiny_epsilon)),
        load_examples(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **{**own, **changes}), 16), 1,
    )["class_pictures"]  # fmt: skip
    assert of(class_image_captions="prompt") == {each.name: each.digest for each in context.examples.classes}
    assert of(class_image_captions="auto")["1.png"] == [context.examples.classes[1].digest, "a dog on grass"]
    with pytest.raises(InputError) as error:
        load_examples(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", class_image_captions="files", **own), 16)
    assert "no caption for 2 of 3 images" in str(error.value)


def test_the_card_of_one_concept_names_its_prompt_alone(tiny_epsilon, tables, tmp_path):
    context, training = prepared(settings_of(tiny_epsilon, tables[:1], tmp_path / "run"))
    facts = json.loads(model_card.metadata(context.settings, training.method, context.family, 1)["customize"])
    assert facts["trigger_words"] == [DOG]
    assert 'instance_prompt: "a photo of sks dog"' in list(model_card.header(facts, "stable_diffusion", []))
