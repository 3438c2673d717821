"""From text to evidence: what carried a line here, wrapped lines, kinds of files, the search for signs."""
