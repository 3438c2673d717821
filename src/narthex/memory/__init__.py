"""Memory before a load: pure functions from an Inspection, knobs and devices to bytes."""
