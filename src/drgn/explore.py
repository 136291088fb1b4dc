"""See a run in the browser: its latent space, particles, volumes, paths and the evidence for a selection.

    drgn explore                                             # the newest run
    drgn explore run=outputs/train/toy/2026-01-31_12-00-00
    drgn explore run=my_cryodrgn_run port=8001 browser=false

Prints an address with a token, which only this machine can open; from elsewhere through
ssh -L 8000:127.0.0.1:8000 HOST. A run that is still training is shown as far as it is. What is kept
(selections, paths, evidence, exports) goes to explorer/ of the run, as files of drgn filter, traverse and
validate. Ctrl-C ends it, with what runs in the background.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def explore(*, run: Path, port: int, browser: bool, trust: list[str]) -> None:
    """Serve the explorer until Ctrl-C.

    Parameters
    ----------
    run
        The run folder, of cryoDRGN too, or "latest".
    port
        Of 127.0.0.1; 0: one that is free.
    browser
        Open the page in the browser of this machine.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Raises
    ------
    InputError
        There is no such run, it has no latent, the port is taken, or Starlette is not installed.
    """
    import secrets
    import webbrowser

    from drgn.run import Run

    try:
        from drgn.explorer.server import serve
        from drgn.explorer.session import Session
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise InputError("The explorer needs starlette and uvicorn: pip install 'drgn[explore]'.") from None
    token = secrets.token_urlsafe(24)

    def started(at: int) -> None:
        address = f"http://127.0.0.1:{at}/#token={token}"
        say(f"{address}\nCtrl-C ends it.", flush=True)
        if browser:
            webbrowser.open(address)

    serve(Session(Run.open(run, trust=trust), trust), token, port, started)


main = command(explore)
if __name__ == "__main__":
    main()
