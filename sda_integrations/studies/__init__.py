"""Studies: ways of answering are compared on the same samples, with what each brings, costs and loses."""
