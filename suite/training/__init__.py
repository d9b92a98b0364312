"""Joint training of two towers, many trials at once in the slots of a lane."""
