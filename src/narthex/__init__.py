"""narthex: plans, tunes, proves and keeps the settings of a local AI stack on one machine."""

__version__ = "0.1.0"
