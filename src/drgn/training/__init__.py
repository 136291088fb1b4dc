"""Training under PyTorch Lightning: the module, schedules, callbacks, precision, encoding."""
