"""Several processes that train one method together: replicated networks (DDP), or sharded ones (FSDP2)."""
