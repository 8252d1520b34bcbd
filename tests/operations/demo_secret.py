"""The secret of the demo deploy; no output may ever hold it."""

SECRET = "correct-horse-battery-staple"
