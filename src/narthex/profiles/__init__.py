"""Profiles: model + engine + knob values + the verdict that justifies them."""
