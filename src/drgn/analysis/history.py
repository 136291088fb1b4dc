"""How the losses of a run went, from what its logger left in the folder (TensorBoard or CSV)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from drgn.errors import InputError

_MEANT = 0.02  # of all that the held-out loss gains, what counts as a change


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


def verdict(table: pd.DataFrame) -> str | None:
    """Say whether training has converged, over-fitted, or should go on; None where nothing was held out.

    Parameters
    ----------
    table
        From `losses`. The held-out loss decides; what it still gains is measured in all it has gained since
        the first epoch. Latent drift and map change, where they were logged, are told.
    """
    column = "heldout/loss"
    if column not in table or table[column].notna().sum() == 0:
        return None
    loss = table[column].dropna()
    if len(loss) < 3:
        return "Too few epochs to say whether training has converged: three are the least."
    best, last = int(loss.idxmin()), int(loss.index[-1])
    gained = float(loss.iloc[0] - loss.min())
    third = loss.iloc[-max(2, len(loss) // 3) - 1 :]
    recent = float(third.iloc[0] - third.min())
    lost = float(loss.iloc[-1] - loss.min())
    said = []
    if gained <= 0:
        said.append(
            "The held-out loss has not fallen since the first epoch: either the start was as good as the"
            " model gets, or it memorises noise from the beginning."
        )
    elif lost > _MEANT * gained:
        said.append(
            f"Over-fitted: the held-out loss was lowest after epoch {best} and has risen since, by"
            f" {lost / gained:.0%} of all it had gained. The latents and maps are those of epoch {best}; more"
            " epochs do no good, a smaller model may."
        )
    elif recent > _MEANT * gained:
        said.append(
            f"Not converged: the last {len(third) - 1} epochs still brought {recent / gained:.0%} of all the"
            " held-out loss has gained. Go on: the same command with a larger epochs= and this run folder as"
            " output=."
        )
    else:
        said.append(
            f"Converged: the last {len(third) - 1} epochs changed the held-out loss by less than {_MEANT:.0%}"
            " of all it has gained."
        )
    for name, what in (("latent_drift", "the latents"), ("map_change", "the map at their mean")):
        if f"heldout/{name}" in table and pd.notna(table.loc[last].get(f"heldout/{name}")):
            said.append(f"In the last epoch {what} changed by {table.loc[last, f'heldout/{name}']:.2%}.")
    return " ".join(said)


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
        table = pd.read_csv(path).apply(pd.to_numeric, errors="coerce")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a table of losses ({str(error).strip()}).") from None
    if "epoch" not in table:
        return pd.DataFrame()
    table = table[table["epoch"].between(0, 1e9)]
    return table.groupby("epoch").last().filter([name for name in table if _is_loss(name)])


def _is_loss(name: str) -> bool:
    """Whether a logged name is that of a loss over an epoch; single steps are left out."""
    return name.startswith(("train/", "heldout/")) and not name.endswith("_step")
