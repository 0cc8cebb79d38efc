"""How quantities and numbers are called wherever a person reads them."""

_WORDS = {"acc1": "acc@1", "acc5": "acc@5", "f1": "macro-F1"}


def label(quantity: str) -> str:
    """A metric or quantity in words: ``test_acc1_final`` is "final test acc@1", ``gap_loss_mean`` "mean gap in loss"."""
    name, _, at = quantity.rpartition("_")
    if at not in {"final", "best", "mean", "largest"}:
        name, at = quantity, ""
    words = [_WORDS.get(word, word) for word in name.removeprefix("gap_").split("_")]
    return " ".join([*filter(None, [at]), *(["gap in"] if name.startswith("gap_") else []), *words])


def count(number: int, noun: str) -> str:
    """``count(1, "trial")`` is "1 trial", ``count(1000, "trial")`` "1,000 trials"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
