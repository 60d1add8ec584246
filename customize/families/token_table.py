"""New tokens for a frozen text encoder: an embedding table that is extended by separate vectors.

B batch, L tokens, D embedding width, V rows of the frozen table, N new rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenTable(nn.Module):
    """Row v of the frozen table for v < V, row v - V of the new vectors beyond.

    The table is neither copied nor resized, so only the new vectors have gradients and optimizer state. (Resizing the table
    and masking its gradient costs an optimizer step over all V rows.)
    """

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.table = table
        self.vectors = nn.ParameterList()

    @property
    def weight(self) -> Tensor:
        """The frozen table [V, D] (transformers reads dtype and device here)."""
        return self.table.weight

    @property
    def num_rows(self) -> int:
        """V + N: the id that the next new token must have."""
        return self.table.num_embeddings + sum(len(vectors) for vectors in self.vectors)

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: [B, L] in 0..V+N-1; returns [B, L, D] in the table's dtype."""
        table_size = self.table.num_embeddings
        is_new = input_ids >= table_size
        known = self.table(input_ids.masked_fill(is_new, 0))
        new = F.embedding((input_ids - table_size).clamp(min=0), torch.cat(list(self.vectors)))
        return torch.where(is_new[..., None], new.to(known.dtype), known)


def token_table(text_encoder: nn.Module) -> TokenTable:
    """The encoder's `TokenTable`, which replaces its embedding on first use."""
    table = text_encoder.get_input_embeddings()
    if not isinstance(table, TokenTable):
        table = TokenTable(table)
        text_encoder.set_input_embeddings(table)
    return table


def added_words(tokenizer) -> dict[str, tuple[str, ...]]:
    """Words that were added to a tokenizer before, each with its tokens: <cat>, <cat>_1, <cat>_2, ...

    diffusers uses these names for the vectors of a word, in the tokenizer of a model that learned words were merged into.
    """
    special = set(tokenizer.all_special_tokens)
    own = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content not in special]
    words: dict[str, tuple[str, ...]] = {}
    for token in own:
        following = next(count for count in range(1, len(own) + 1) if f"{token}_{count}" not in own)
        words[token] = (token, *(f"{token}_{i}" for i in range(1, following)))
    further = {token for tokens in words.values() for token in tokens[1:]}
    return {word: tokens for word, tokens in words.items() if word not in further}
