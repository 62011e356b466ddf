"""A command line's options: small, because argparse is half of what `ljsv status` may take.

Options may stand before, between and after the operands; `--` ends them;
`--name=value` and `-n5` work.
"""

from __future__ import annotations

from ljsv.errors import EXIT_USAGE, Fault

FLAG = ""


class Options:
    """`values` of the options that were given ("" for flags; the last one counts), and the `operands`."""

    def __init__(self, values: dict[str, str], operands: list[str], given: list[tuple[str, str]] | None = None) -> None:
        self.values = values
        self.operands = operands
        self._given = given or []

    def every(self, name: str) -> list[str]:
        """All values of an option that may be given several times, in order."""
        return [value for option, value in self._given if option == name]

    def has(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: str = "") -> str:
        return self.values.get(name, default)

    def number(self, name: str, default: float, *, low: float = 0) -> float:
        """A number, refused with the option's name."""
        text = self.values.get(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = low - 1
        if not low <= number < 1e9:
            raise usage(f"{name} wants a number, not less than {low:g}: found {text!r}")
        return number


def usage(message: str, hint: str = "ljsv help") -> Fault:
    return Fault(message, hint=hint, exit_code=EXIT_USAGE)


def parse(arguments: list[str], known: dict[str, str], *, stop_at_operand: bool = False) -> tuple[Options, list[str]]:
    """(options and operands, what is left). `known` maps an option to the name of its value, FLAG for none."""
    values: dict[str, str] = {}
    given: list[tuple[str, str]] = []
    operands: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            operands += rest
            rest = []
        elif word.startswith("-") and word != "-":
            name, has_value, value = word.partition("=")
            if not word.startswith("--") and len(word) > 2 and word[:2] in known:
                name, has_value, value = word[:2], "=", word[2:]
            if name not in known:
                raise usage(f"unknown option {name}{_meant(name, known)}", _known(known))
            if known[name] == FLAG:
                if has_value:
                    raise usage(f"{name} takes no value")
                value = FLAG
            elif not has_value:
                if not rest or rest[0] in known or rest[0] == "--":
                    raise usage(f"{name} wants {known[name]}")
                value = rest.pop(0)
            values[name] = value
            given.append((name, value))
        elif stop_at_operand:
            return Options(values, operands, given), [word, *rest]
        else:
            operands.append(word)
    return Options(values, operands, given), []


def _meant(name: str, known: dict[str, str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [option for option in known if option.startswith("--")], 1)
    return f": did you mean {close[0]}?" if close else ""


def _known(known: dict[str, str]) -> str:
    return "options here: " + " ".join(f"{name} {value}".strip() for name, value in sorted(known.items()))
