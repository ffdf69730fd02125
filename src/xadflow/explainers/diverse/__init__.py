"""Diverse counterfactuals: one generator gives several different images that a frozen detector calls normal."""
