"""Lightning without its advice."""

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's advice about settings that are intended."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for advice in (
            ".*does not have many workers.*",
            ".*isinstance.treespec, LeafSpec.*",
            ".*The number of training batches.*",
            ".*Checkpoint directory.*exists and is not empty.*",
            "The dirpath has changed.*",  # after a run folder was moved
            ".*Trying to infer the `batch_size`.*",
            ".*training_step.*log.*",
            ".*in eval mode at the start of training.*",
        ):
            warnings.filterwarnings("ignore", advice)
        yield
