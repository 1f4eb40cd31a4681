"""The paper's figures: what they show as plain values, and one way to draw them."""
