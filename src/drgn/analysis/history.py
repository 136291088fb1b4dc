"""How the losses of a run went, from what its logger left in the folder (TensorBoard or CSV)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def losses(folder: Path) -> pd.DataFrame:
    """Losses after each epoch.

    Parameters
    ----------
    folder
        The run folder. Of several logs, which a resumed training leaves, the newest says what an epoch gave.

    Returns
    -------
    DataFrame
        Index `epoch`, counted from 1; columns named as logged ("train/loss", "heldout/kl", ...). Empty where
        nothing was logged.
    """
    logs = sorted(
        [*folder.glob("**/events.out.tfevents.*"), *folder.glob("**/metrics.csv")],
        key=lambda path: path.stat().st_mtime,
    )
    table = pd.DataFrame()
    for path in logs:
        table = (_from_csv(path) if path.suffix == ".csv" else _from_events(path)).combine_first(table)
    table.index = table.index.astype(int) + 1
    table = table.rename(columns=lambda name: name.removesuffix("_epoch"))
    return table.rename_axis("epoch")


def _from_events(path: Path) -> pd.DataFrame:
    """Losses of each epoch (from 0) in one TensorBoard file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    log.Reload()
    tags = log.Tags()["scalars"]
    if "epoch" not in tags:
        return pd.DataFrame()
    epoch_of = {event.step: int(event.value) for event in log.Scalars("epoch")}
    columns = {
        tag: {epoch_of[event.step]: event.value for event in log.Scalars(tag) if event.step in epoch_of}
        for tag in tags
        if _is_loss(tag)
    }
    return pd.DataFrame(columns)


def _from_csv(path: Path) -> pd.DataFrame:
    """Losses of each epoch (from 0) in one metrics.csv of Lightning."""
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    if "epoch" not in table:
        return pd.DataFrame()
    return table.groupby("epoch").last().filter([name for name in table if _is_loss(name)])


def _is_loss(name: str) -> bool:
    """Whether a logged name is that of a loss over an epoch; single steps are left out."""
    return name.startswith(("train/", "heldout/")) and not name.endswith("_step")
