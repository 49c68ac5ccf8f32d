"""``focaldet push``: upload a run to the Hugging Face hub, by its own client."""

from collections.abc import Callable
from pathlib import Path

from focaldet.checks import InputError, one_line
from focaldet.engine.hub import FILES, repository_of
from focaldet.engine.spec import check_shapes, read_spec
from focaldet.report.model_card import model_card
from focaldet.system.downloads import quiet_hub, unreachable


def push_run(
    run: Path,
    repository: str,
    *,
    private: bool = False,
    licence: str | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Upload the model, its calibration, its evaluation and a card, in one commit. Returns OWNER/NAME.

    Photos, labels and the checkpoint are not uploaded.

    Args:
        run: the run folder.
        repository: OWNER/NAME; created if it does not exist.
        private: create a private repository.
        licence: licence of the weights, in the hub's abbreviation.
        say: prints a line.

    Raises:
        InputError: not a run, not a valid name, or the hub rejects it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    repository = repository_of(repository)
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder")
    check_shapes(run / "model.safetensors", read_spec(run / "model.json"))
    card = model_card(run, repository, licence)
    files = {name: run / name for name in FILES if name != "README.md" and (run / name).is_file()}
    if reason := unreachable(constants.ENDPOINT):
        raise InputError(f"{repository}: cannot be uploaded ({reason})")
    parts: dict[str, bytes | str] = {"README.md": card.encode(), **{name: str(file) for name, file in files.items()}}
    operations = [CommitOperationAdd(name, content) for name, content in parts.items()]
    api = HfApi()
    try:
        with quiet_hub():
            api.create_repo(repository, private=private, exist_ok=True)
            api.create_commit(repository, operations, commit_message="Upload a run of focaldet")
    except Exception as error:  # the hub raises many classes of errors
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "; log in first: hf auth login" if status in (401, 403) else ""
        raise InputError(f"{repository}: the upload failed ({one_line(error)}){hint}") from error
    say(f"{run}: uploaded to {constants.ENDPOINT}/{repository} ({', '.join(parts)})")
    return repository
