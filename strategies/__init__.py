"""Every choice the CORAL paper calls a strategy, one file each; imports nothing of ``coral_backend``."""
