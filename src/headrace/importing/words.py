"""Command lines → words → flags: shells taken apart, variables written out, secrets left out."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.importing.base import Flag

_SHELLS = ("sh", "bash", "dash", "ash", "zsh")
_SEPARATORS = (";", "&", "|", "(", ")")
_VARIABLE = re.compile(r"\$\((\w+)\)|\$\{(\w+)(?::-[^}]*)?\}|\$(\w+)")
_SECRET_NAME = re.compile(r"token|secret|passw|api[-_]?key|credential|(?:^|[-_])key$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|eyJ[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}")
_SWITCH = re.compile(r"--(?:(?:enable|disable|no|return|skip)-.*|trust-remote-code|enforce-eager|async-scheduling|is-embedding)")
"""Flags without a value, where a value could be taken for the model."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command line, and its line in the file."""

    text: str
    line: int


def secret_name(name: str) -> bool:
    """Whether a variable or a flag of this name holds a secret."""
    return bool(_SECRET_NAME.search(name)) and not re.search(r"token(?:s|izer|ization)", name, re.IGNORECASE)


def secret_value(text: str) -> bool:
    """Whether a text looks like a secret, whatever it is called."""
    return bool(_SECRET_VALUE.search(text))


def commands(words: Sequence[Word]) -> list[list[Word]]:
    """The commands that `words` run: themselves, or what a shell is told to."""
    for place, word in enumerate(words[:-1]):
        shell = place == 0 or words[place - 1].text.rpartition("/")[2] in _SHELLS
        if re.fullmatch(r"-[a-z]*c", word.text) and shell and words[0].text.rpartition("/")[2] in _SHELLS:
            return script(words[place + 1].text, words[place + 1].line)
    return [list(words)]


def script(text: str, line: int = 1) -> list[list[Word]]:
    """The simple commands of a shell script. What the shell itself would do (loops, pipes) is not followed."""
    found: list[list[Word]] = []
    for number, logical in _logical_lines(text):
        command: list[Word] = []
        for word in _split(logical):
            if word and all(char in _SEPARATORS for char in word):
                found.append(command)
                command = []
            else:
                command.append(Word(word, line + number))
        found.append(command)
    return [command for command in found if command]


def _logical_lines(text: str) -> Iterable[tuple[int, str]]:
    """Lines, with those that end in a backslash put together, by the number of their first."""
    pending, start = "", 0
    for number, line in enumerate(text.split("\n")):
        start = start if pending else number
        if line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1] + " "
            continue
        if (pending + line).strip():
            yield start, pending + line
        pending = ""
    if pending.strip():
        yield start, pending


def _split(line: str) -> list[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split, reader.commenters = True, "#"
    try:
        return list(reader)
    except ValueError:  # a quote that is closed on a later line
        return line.split()


def expanded(words: Sequence[Word], variables: Mapping[str, str | None]) -> list[Word]:
    """`words` with the variables written out whose values are known and no secrets; the others stay as they are."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        known = None if secret_name(name) else variables.get(name)
        return match[0] if known is None else known

    return [Word(_VARIABLE.sub(value, word.text), word.line) for word in words]


def names(text: str) -> list[str]:
    """The variables in it."""
    return [match[1] or match[2] or match[3] for match in _VARIABLE.finditer(text)]


def unresolved(text: str) -> bool:
    """Whether a variable is left in it."""
    return bool(_VARIABLE.search(text))


def parsed(words: Sequence[Word], short: Mapping[str, str]) -> tuple[list[Word], list[Flag]]:
    """(words that belong to no flag, flags). `short` gives the long names of short flags and of other spellings."""
    loose: list[Word] = []
    flags: list[Flag] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not _is_flag(word.text):
            loose += [] if word.text == "--" else [word]
            continue
        name, equals, value = word.text.partition("=")
        long = _long(name, short)
        values = [value] if equals else []
        while not equals and place < len(words) and not _is_flag(words[place].text) and not _switch(long):
            values.append(words[place].text)
            place += 1
        flags.append(Flag(long, tuple(values), (word.text, *(() if equals else values)), word.line))
    return loose, flags


def _is_flag(text: str) -> bool:
    return bool(re.match(r"--?[A-Za-z]", text))


def _long(name: str, short: Mapping[str, str]) -> str:
    dashed = name.replace("_", "-") if name.startswith("--") else name
    return short.get(dashed, dashed)


def _switch(name: str) -> bool:
    return bool(_SWITCH.fullmatch(name))
