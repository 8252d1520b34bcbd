"""What can go wrong in a drill, each told in one sentence that says what to do about it."""

from __future__ import annotations


class DrillError(Exception):
    """A drill cannot go on; the message is for the person who called it."""


class CannotRunHere(DrillError):
    """This computer cannot hold a local droplet."""


class UsageMistake(DrillError):
    """The command was given something that it cannot use."""


class NoSuchDroplet(DrillError):
    """A droplet was named that was never made, or is already gone."""


class BootFailed(DrillError):
    """A droplet was started and did not come up."""


class CommandFailed(DrillError):
    """A program that the drill relies on failed."""
