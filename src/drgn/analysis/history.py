"""How the losses of a run went, from what its logger left in the folder (TensorBoard or CSV)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from drgn.errors import InputError

_MEANT = 0.02  # of all that the held-out loss gains, what counts as a change
_STILL = 0.005  # change of latents and map in an epoch, up to which a warm start had found them
_CHANGES = {"heldout/latent_drift": "the latents", "heldout/map_change": "the map"}
_GO_ON = "Go on: the same command with {} and this run folder as output=."


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


def verdict(table: pd.DataFrame, *, warm: bool) -> str | None:
    """Say whether training has converged, over-fitted, or should go on; None where nothing was held out.

    Parameters
    ----------
    table
        From `losses`. The held-out loss decides; what it still gains is measured in all it has gained since
        the first epoch. Latent drift and map change, where they were logged, are told: the largest of the
        epochs that decide, since at the end the learning rate is so low that nothing moves.
    warm
        Whether there was a warm start. Most is gained in it, before the first loss, so that what is gained
        since is no measure where latents and map have not moved.
    """
    column = "heldout/loss"
    if column not in table or table[column].notna().sum() == 0:
        return None
    loss = table[column].dropna()
    if len(loss) < 3:
        said = "Too few epochs to say whether training has converged: three are the least. "
        if warm:
            said += "What the warm start found before the first may be all there is to find. "
        return said + _GO_ON.format("epochs=3")
    best = int(loss.idxmin())
    gained = float(loss.iloc[0] - loss.min())
    third = loss.iloc[-max(2, len(loss) // 3) - 1 :]
    recent = float(third.iloc[0] - third.min())
    lost = float(loss.iloc[-1] - loss.min())
    changes = _largest(table.loc[third.index[1:]])
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
    elif recent > _MEANT * gained and warm and _still(table.iloc[1:]):
        moved = _told(_largest(table))
        return (
            f"Converged: the warm start had found latents and maps, and no epoch moved them much ({moved})."
            f" The held-out loss still falls, by {recent:.2g} of {loss.iloc[-1]:.4g} in the last"
            f" {len(third) - 1} epochs: more of them may add detail to the maps."
        )
    elif recent > _MEANT * gained:
        said.append(
            f"Not converged: the last {len(third) - 1} epochs still brought {recent / gained:.0%} of all the"
            f" held-out loss has gained. {_GO_ON.format('a larger epochs=')}"
        )
    else:
        said.append(
            f"Converged: the last {len(third) - 1} epochs changed the held-out loss by less than {_MEANT:.0%}"
            " of all it has gained."
        )
    if changes:
        said.append(f"In the last {len(third) - 1} epochs {_told(changes)}.")
    return " ".join(said)


def _largest(table: pd.DataFrame) -> dict[str, float]:
    """Largest change in one epoch of what `_CHANGES` names, where any is known."""
    return {
        what: float(table[name].max())
        for name, what in _CHANGES.items()
        if name in table and table[name].notna().any()
    }


def _still(table: pd.DataFrame) -> bool:
    """Whether what is known of most of these epochs is that nothing moved."""
    known = table[[name for name in _CHANGES if name in table]]
    return known.shape[1] > 0 and bool((known.notna().mean() >= 0.5).all()) and known.max().max() <= _STILL


def _told(changes: dict[str, float]) -> str:
    return " and ".join(f"{what} changed by up to {100 * x:.2g} % an epoch" for what, x in changes.items())


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
