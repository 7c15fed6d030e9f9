"""A tokenizer for a tiny text encoder, trained on captions: byte-level BPE, so that an unknown word falls to pieces."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from alchemint.training.ranks import ALONE, Ranks

_PAD, _END = "<pad>", "</s>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a lower-casing tokenizer that ends each text with </s> and pads with <pad>, as T5's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[_PAD, _END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, tokenizer.token_to_id(_END))])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END)


def load_or_train(folder: Path, texts: Iterable[str], vocab_size: int,
                  ranks: Ranks = ALONE) -> PreTrainedTokenizerFast:
    """Return the tokenizer in `folder`, trained on `texts` and saved there first if there is none."""
    if ranks.is_first and not (folder / "tokenizer.json").is_file():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        train_tokenizer(texts, vocab_size).save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    ranks.wait()
    return PreTrainedTokenizerFast.from_pretrained(folder)
