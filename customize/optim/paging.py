"""8-bit AdamW in paged memory, also after its state was loaded."""

from typing import Any

from bitsandbytes.optim import PagedAdamW8bit


class Paged(PagedAdamW8bit):
    """bitsandbytes loads a state into ordinary memory of the GPU; here it is paged again."""

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        super().load_state_dict(state_dict, move_to_device)
        for parameter, kept in self.state.items():
            for name in ("state1", "state2"):
                paged = self.get_state_buffer(parameter, dtype=kept[name].dtype)
                kept[name] = paged.copy_(kept[name])
