"""`sda demo`: one question, answered from documents by LangChain and by LlamaIndex, plainly and steered."""
