"""masters-edge: turn a large vision-language model into one that answers on a phone or an edge board.

Importing this package is free: nothing heavier than the standard library is loaded until a room is entered.
"""

__version__ = "0.1.0"
