"""The server: the engine behind OpenAI's routes, and a page to try it on."""
