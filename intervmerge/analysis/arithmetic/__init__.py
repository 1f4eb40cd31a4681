"""Task arithmetic as it is evaluated: adding, negation, analogies and the role of the coefficient."""
