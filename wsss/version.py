"""Which version this is, where there is no git to ask."""

VERSION = "0.1.0"
