"""The nouns everything else speaks in: facts, patches, edits and errors."""
