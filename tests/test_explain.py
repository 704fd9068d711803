"""What the notebook cannot show: an extra that is not installed."""
import sys
import pytest
from llmrec.data import make_synthetic_pair
from llmrec.recommender import Recommender
import llmrec.explain


def test_words_without_captum_name_the_extra(monkeypatch):
    pair = make_synthetic_pair(seed=2, n_users=(30, 40), n_items=(20, 20))
    rec = Recommender('minilm', 'target', budget='fast').fit(pair.target)
    user, item = rec.data.users[0], rec.items[3]
    for m in [m for m in sys.modules if m.split('.')[0] == 'captum']: monkeypatch.delitem(sys.modules, m)
    class Missing:                                                             # as if it were not installed
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.split('.')[0] == 'captum': raise ModuleNotFoundError(f'No module named {name!r}', name=name)
    monkeypatch.setattr(sys, 'meta_path', [Missing, *sys.meta_path])
    with pytest.raises(ImportError, match=r'llmrec\[explain\]'): rec.token_attributions(user, item)
    assert len(rec.token_attributions(user, item, how='delete').words)        # the other way needs no extra

def test_one_interaction_is_no_plural():
    from types import SimpleNamespace
    def said(n): return llmrec.explain._together(SimpleNamespace(score=1.5, history=.5, unexplained=0., rows=[0]*n))
    assert said(1).startswith('The one interaction of the history adds +0.50, what is known')
    assert said(3).startswith('All 3 interactions of the history together add +0.50, what is known')
