"""The explorer: a local web app on a run."""
