"""The names of a network's modules in files of adapters: one `NetworkNames` for each trainable network of a family."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NetworkNames:
    """The names of one network's modules in the files of every program.

    dotted: prefixes of a module's name, the one that diffusers writes first.
    underscored: prefixes of a module's name whose dots are underscores, the one that kohya's scripts write first.
    inner: a prefix of all names in files that the network's own names may lack (`text_model.`; transformers 5 dropped it).
    original: maps the names of all modules to those in the code of the model's authors, None for a module that it does not
    have. original_dotted: prefixes of these names, the one that ComfyUI writes first; they also occur with the prefixes of
    `underscored`, and kohya's scripts write those if `kohya_is_original`.
    older: a pattern of a module's name, and its names in diffusers before 0.22 (templates of `re.Match.expand`).
    reads_prompt: ends of the names of layers whose input is the prompt embeddings.
    library: the library of the network's class.
    """

    dotted: tuple[str, ...]
    underscored: tuple[str, ...]
    inner: str = ""
    original: Callable[[Sequence[str]], Sequence[str | None]] = lambda modules: [None] * len(modules)
    original_dotted: tuple[str, ...] = ()
    kohya_is_original: bool = False
    older: tuple[tuple[str, tuple[str, ...]], ...] = ()
    reads_prompt: tuple[str, ...] = ()
    library: Literal["diffusers", "transformers"] = "diffusers"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """All prefixes of names in files that identify the network."""
        return (*self.dotted, *self.underscored, *self.original_dotted)

    def written(self, module: str) -> str:
        """The name of a module, or of a tensor in one, in a file for diffusers."""
        return self.dotted[0] + self.plain(module)

    def plain(self, module: str) -> str:
        """The name of a module without `inner`."""
        return module.removeprefix(self.inner)

    def originals(self, modules: Sequence[str]) -> Sequence[str | None]:
        """`original` of the names without `inner`."""
        return self.original([self.plain(module) for module in modules])

    def in_files(self, modules: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(name in a file, module) for every name that a file may use for each module. Where two modules share a name, the one
        with diffusers' name comes first."""
        later = []
        for module, original in zip(modules, self.originals(modules), strict=True):
            plain = self.plain(module)
            yield from ((name, module) for name in spelled(plain, self.dotted, self.underscored))
            later += [(name, module) for name in spelled(original, self.original_dotted, self.underscored)] if original else []
            for pattern, templates in self.older:
                if match := re.fullmatch(pattern, plain):
                    yield from ((match.expand(template), module) for template in templates)
        yield from later


def spelled(module: str, dotted: Sequence[str], underscored: Sequence[str]) -> Iterator[str]:
    """A module's name after each prefix."""
    yield from (prefix + module for prefix in dotted)
    yield from (prefix + module.replace(".", "_") for prefix in underscored)
