"""The paper's experiments by name: configured by YAML, resumable, one directory of results each."""
