"""The wire format: OpenAI's chat completions with one field more, `sda`, in requests and in replies.

`requests`, `sda_field` and `replies` are its objects, `openai_fields` tells what becomes of each of OpenAI's fields,
and `errors` how errors go over it. A server reads requests and writes replies (`read_request`, `write_reply`), a client
writes requests and reads replies (`write_request`, `read_reply`). No file here knows of HTTP.
"""

from sda_engine.wire.server_evaluator import ServerEvaluator

__all__ = ["ServerEvaluator"]
