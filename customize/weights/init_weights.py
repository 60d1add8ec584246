"""`--init_weights`: a new run starts from weights trained before, for example with other images or another learning rate.

Settings that are recorded in the files (rank, targets, words) are the defaults of the new run; settings that are given must
agree with them. torch is imported only where the weights are copied.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from customize import adapters
from customize.adapters import Adapter
from customize.adapters.lora_keys import by_module, network_of, sorted_out, split
from customize.errors import InputError, Problem
from customize.families import specs
from customize.printable import first_few
from customize.weights.learned_weights import Learned, find_learned, of_other_families
from customize.weights.weight_file import LearnedFile, adapter_description

if TYPE_CHECKING:
    from torch import Tensor

    from customize.families.base import Family

SETTING = "init_weights"
LEAVE_OUT = "leave it out to use the value of the weights"


def find(path: str, base: str | None = None) -> Learned:
    """The weights at a path, as infer.py's `weights` finds them. base: the given base model, for weights that do not name theirs.
    Raises InputError that names this setting."""
    try:
        return find_learned(None, [(path, 1.0)])
    except InputError as error:
        if base:
            with suppress(InputError):
                return find_learned(base, [(path, 1.0)])
        renamed = [replace(each, where=SETTING) if each.where == "weights" else each for each in error.problems]
        raise InputError(renamed) from error


def implied_settings(path: str, command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that follow from the weights, for this command. given: the settings given by the user. Raises InputError."""
    learned = find(path, given.get("pretrained_model_name_or_path"))
    found: dict[str, Any] = {"pretrained_model_name_or_path": learned.base} if learned.base else {}
    words = {word: file for file in learned.files for word in file.placeholders}
    adapters = [file for file in learned.files if file.is_adapter]
    if command == "train_textual_inversion.py":
        if adapters or learned.network or not words:
            what = f"{path} contains no embeddings" if not words else f"{path} contains an adapter besides its words"
            raise InputError(Problem(SETTING, what, "give a learned_embeds file, or continue with train_dreambooth.py"))
        return found | settings_of_words(words)
    found |= settings_of_words(words) if words else {}
    for file in adapters:
        found |= settings_of_adapter(file)
    if adapters and (adapter := given.get("adapter", found["adapter"])) != found["adapter"]:
        what = f"is {adapter!r}, where {SETTING} has {found['adapter']!r}"
        raise InputError(Problem("adapter", what, "leave it out, or merge them into the base model by infer.py --merge"))
    return found


def settings_of_words(words: Mapping[str, LearnedFile]) -> dict[str, Any]:
    """The words of embeddings, their numbers of vectors, and their initializer tokens where the files record them."""
    initializers = dict[str, str]()
    for file in words.values():
        recorded = file.metadata.get("settings", {})
        tokens, starts = (recorded.get(name) or () for name in ("placeholder_token", "initializer_token"))
        if isinstance(tokens, list) and isinstance(starts, list) and starts:
            initializers |= dict(zip(tokens, starts * (len(tokens) if len(starts) == 1 else 1), strict=False))
    counts = [rows(file, file.placeholders[word][0]) for word, file in words.items()]
    starts = [initializers.get(word, "thing") for word in words]
    return {"placeholder_token": [*words], "num_vectors": counts, "initializer_token": starts}


def rows(file: LearnedFile, name: str) -> int:
    """The number of vectors of an embedding."""
    shape = file.header.tensors[name].shape
    return shape[0] if len(shape) == 2 else 1


def settings_of_adapter(file: LearnedFile) -> dict[str, Any]:
    """The settings that follow from an adapter's tensors and metadata. Raises InputError."""
    name, recorded = adapter_of(file), file.metadata.get("settings", {})
    own = {key: recorded[key] for key in adapters.settings_of(name) if key in recorded} if recorded.get("adapter") == name else {}
    networks = specs.networks()
    description = next(filter(None, (adapter_description(file, part) for part in networks)), {})
    try:
        found = adapters.build(name).settings_in(file.path, file.header, description, own)
    except InputError as error:
        raise InputError(replace(each, where=SETTING, what=f"{file.path} {each.what}") for each in error.problems) from error
    parts = {network_of(key, networks) for key in file.header.tensors}
    return {"adapter": name, **found, "train_text_encoder": not parts <= specs.denoisers()}


def adapter_of(file: LearnedFile) -> str:
    """The name of the adapter that a file can be trained on with: the one that its type or its settings name, if it has the
    tensors of that; else a LoRA."""
    kinds = {parts[1] for name in file.header.tensors if (parts := split(name))}
    recorded = str(file.metadata.get("settings", {}).get("adapter"))
    is_of_kind = recorded in adapters.names() and kinds & {*adapters.build(recorded).kinds}
    return file.adapter or (recorded if is_of_kind else "lora")


def problems(settings) -> Iterator[Problem]:
    """The problems of given settings that contradict the weights."""
    if settings.init_weights is None:
        return
    implied = implied_settings(settings.init_weights, settings.command, settings.values())
    learned = find(settings.init_weights, settings.pretrained_model_name_or_path)
    base = settings.pretrained_model_name_or_path
    if not learned.files and not learned.network and base != learned.base:
        what = f"is {base}, but {SETTING} is a complete model, too: {learned.base}"
        yield Problem("pretrained_model_name_or_path", what, "give only one of the two")
    yield from (replace(each, where=SETTING) for each in of_other_families(base, learned.files))
    same = ("use_dora", "use_rslora")
    if adapters.build(implied.get("adapter", adapters.NONE)).kinds:  # whose tensors have one shape for each setting
        same = tuple({*implied} & {*adapters.settings_of(implied["adapter"])} - {"lora_targets", "rank_pattern"})
    for name in sorted(same):
        if name in implied and getattr(settings, name) != implied[name]:
            yield Problem(name, f"is {getattr(settings, name)!r}, where {SETTING} has {implied[name]!r}", LEAVE_OUT)
    if implied.get("rank", 0) > getattr(settings, "rank", 0):
        yield Problem("rank", f"is {settings.rank}, where {SETTING} has {implied['rank']}", f"{LEAVE_OUT}, or set a higher one")
    if implied.get("train_text_encoder") and not settings.train_text_encoder:
        yield Problem("train_text_encoder", f"is false, where {SETTING} has weights of the text encoder", LEAVE_OUT)
    if "placeholder_token" in implied:
        yield from word_problems(settings, dict(zip(implied["placeholder_token"], implied["num_vectors"], strict=True)))


def word_problems(settings, counts: Mapping[str, int]) -> Iterator[Problem]:
    """The problems of words that the weights do not contain, and of other numbers of vectors."""
    tokens = settings.placeholder_token
    numbers = settings.num_vectors * (len(tokens) if len(settings.num_vectors) == 1 else 1)
    source = sources(tokens, counts)
    if not source:
        what = f"{first_few(tokens, 3)} is not in {SETTING}, which has {first_few([*counts], 3)}"
        yield Problem("placeholder_token", what, "use one of its words")
    for token, count in zip(tokens, numbers, strict=False):
        if token in source and count != counts[source[token]]:
            what = f"is {count} of {token}, where {SETTING} has {counts[source[token]]}"
            yield Problem("num_vectors", what, LEAVE_OUT)


def sources(tokens: tuple[str, ...], words: Mapping[str, Any]) -> dict[str, str]:
    """The word of the weights from which each new word starts: the one of the same name; a single word may be renamed."""
    if len(tokens) == len(words) == 1:
        return {tokens[0]: next(iter(words))}
    return {token: token for token in tokens if token in words}


def digest(settings) -> str:
    """A hash of the initial weights of a run; empty without them, and for a complete pipeline, which is the base model."""
    if settings.init_weights is None:
        return ""
    learned, hashes = find(settings.init_weights, settings.pretrained_model_name_or_path), hashlib.sha256()
    for file in (*filter(None, [learned.network]), *learned.files):
        with open(file.path, "rb") as opened:
            hashes.update(hashlib.file_digest(opened, "sha256").digest())
    return hashes.hexdigest() if learned.files or learned.network else ""


def into_base(settings, family: "Family") -> None:
    """Copies the weights of fully trained networks into a base model. Raises InputError where they do not fit."""
    if settings.init_weights is None or not (
        network := find(settings.init_weights, settings.pretrained_model_name_or_path).network
    ):
        return
    from customize.weights.checkpoint_weights import put_into
    from customize.weights.load_weights import read_tensors

    if getattr(settings, "adapter", "none") != "none":
        what = f"{network.path} is a fully trained network; an adapter trained on it would fit no published base model"
        remedy = "save it as a model by infer.py --merge FOLDER first, and use that as the base model"
        raise InputError(Problem(SETTING, what, remedy))
    put_into(family, network.path, read_tensors(network), "use the base model that it was trained on")


def words_of(settings) -> "dict[str, dict[str, Tensor]]":
    """The initial vectors of words, by placeholder and by name in the file, for `vectors_by_encoder`."""
    if settings.init_weights is None:
        return {}
    from customize.weights.load_weights import read_tensors

    found: dict[str, dict[str, Tensor]] = {}
    for file in find(settings.init_weights, settings.pretrained_model_name_or_path).files:
        tensors = read_tensors(file)
        found |= {word: {name: tensors[name] for name in names} for word, names in file.placeholders.items()}
    return {token: found[word] for token, word in sources(settings.placeholder_token, found).items()}


class IntoAdapter:
    """Copies the adapter of `init_weights` into the one to be trained. Created before that is attached, called afterwards."""

    def __init__(self, settings, family: "Family"):
        from customize.weights.load_weights import read_tensors

        self.family, self.files = family, []
        if settings.init_weights and settings.adapter != "none":
            modules = {part: [name for name, _ in network.named_modules() if name] for part, network in family.trainable.items()}
            for file in find(settings.init_weights, settings.pretrained_model_name_or_path).files:
                sort = by_module if file.adapter else sorted_out
                tensors = {name: tensor for name, tensor in read_tensors(file).items() if name not in file.word_tensors}
                self.files.append((file, [*tensors], *sort(tensors, modules, family.spec.networks)))

    def __call__(self, adapter: Adapter) -> None:
        """Raises InputError for tensors that do not fit the adapter."""
        for file, names, places, keys in self.files:
            missing = sorted(set(names) - set(keys.values()))
            for part in dict.fromkeys(part for part, _ in places):
                mine = {module: terms for (its, module), terms in places.items() if its == part}
                without = adapter.start_from(self.family.trainable[part], mine, adapter_description(file, part))
                missing += [f"{part}.{module}" for module in without]
            if missing:
                what = f"{file.path}: {len(missing)} tensors do not fit the adapter to be trained: {first_few(missing, 3)}"
                remedy = "leave out lora_targets, and use the base model that it was trained on"
                raise InputError(Problem(SETTING, what, remedy))
