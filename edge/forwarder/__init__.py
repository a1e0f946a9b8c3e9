"""The relay's data plane: the loop that every packet passes, native or in Python."""
