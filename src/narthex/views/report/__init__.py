"""One page about one study: self-contained HTML with charts drawn here, no network."""
