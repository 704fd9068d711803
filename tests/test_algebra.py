"""What is kept of arrays goes with them, also while Python ends and a module's names are gone."""
import sys
import numpy as np
from llmrec import algebra


def test_what_is_kept_goes_quietly_at_exit(monkeypatch):
    said = []
    monkeypatch.setattr(sys, 'unraisablehook', said.append)
    x = np.ones(3)
    before = len(algebra._KEPT)
    assert algebra.kept(x, 'its sum', lambda: 3) == 3
    every = algebra._KEPT
    monkeypatch.setattr(algebra, '_KEPT', None)          # as Python leaves it when it ends
    del x
    assert not said and len(every) == before
