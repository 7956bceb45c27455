"""Small tokenizers of other kinds than the tiny models' one."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def sentencepiece_like():
    """A tokenizer whose decoder drops the space before the first word."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        ["hello there world of words"] * 3,
        trainers.BpeTrainer(vocab_size=330, special_tokens=["<unk>", *alphabet], show_progress=False),
    )
    return tokenizer
