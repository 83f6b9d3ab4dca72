"""The HTTP side of `alphaedit serve`: OpenAI's completions and chat over `jobs.serve`."""
