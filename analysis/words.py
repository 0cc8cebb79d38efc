"""How quantities and numbers are called wherever a person reads them."""

from collections.abc import Mapping

NONE = "-"
"""Stands where there is no value."""

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


def p_value(p: float | None) -> str:
    """A p value with three decimals, ``<0.001`` below that."""
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def spread(figures: Mapping[str, float | None], digits: int) -> str:
    """``mean ± sd`` of a summary, the mean alone where it has no standard deviation."""
    mean, sd = figures["mean"], figures["sd"]
    if mean is None:
        return NONE
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def after(separator: str, text: str) -> str:
    """The text behind its separator; nothing where there is no text."""
    return f"{separator}{text}" if text else ""


def capitalised(text: str) -> str:
    """The text with a capital to begin with, the rest as it is."""
    return text[:1].upper() + text[1:]
