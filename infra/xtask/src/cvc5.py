#!/usr/bin/env python3
"""cvc5 as a program: SMT-LIB on standard input, answers on standard output, over the Python package of the same name.

The package has the solver as a library and no program. Arguments are taken and not needed. Laid down by `tools.rs`.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "packages"))

from cvc5 import InputLanguage, InputParser, Solver, SymbolManager, TermManager  # noqa: E402


class Session:
    """One solver; a `(reset)` is a new one."""

    def __init__(self):
        self.terms = TermManager()
        self.solver = Solver(self.terms)
        self.symbols = SymbolManager(self.terms)

    def run(self, text):
        parser = InputParser(self.solver, self.symbols)
        parser.setStringInput(InputLanguage.SMT_LIB_2_6, text, "stdin")
        while True:
            command = parser.nextCommand()
            if command.isNull():
                return
            answer = command.invoke(self.solver, self.symbols)
            if answer:
                sys.stdout.write(answer)
                sys.stdout.flush()


def commands(lines):
    """Whole commands: brackets balance outside strings, quoted symbols and comments."""
    text, depth, within = "", 0, None
    for line in lines:
        text += line
        for char in line:
            if within:
                if char == ("\n" if within == ";" else within):
                    within = None
            elif char in '"|;':
                within = char
            elif char == "(":
                depth += 1
            elif char == ")":
                depth -= 1
        if depth == 0 and not within:
            if text.strip():
                yield text
            text = ""


def main():
    session = Session()
    for text in commands(sys.stdin):
        if text.strip() == "(exit)":
            return
        if text.strip() == "(reset)":
            session = Session()
            continue
        try:
            session.run(text)
        except Exception as error:  # What the program of that name says in such a case.
            said = str(error).strip().replace('"', "'").replace("\n", " ")
            sys.stdout.write('(error "' + said + '")\n')
            sys.stdout.flush()


main()
