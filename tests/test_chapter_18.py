"""Hard cases of chapter 18 (recommendation lists)."""
import numpy as np
import pandas as pd
import scipy.sparse as sp
from fastcore.test import ExceptionExpected, test_close as close, test_eq as equal
from llmrec.core import InputError, l2_normalize
from llmrec.lists import TextIndex, distinct_titles, item_mask, kl_divergence, to_table, top_k
from llmrec.metrics import category_shares, miscalibration


def test_rules_are_obeyed():
    kinds, prices = ['Drama', 'Drama|Comedy', ['Horror', 'War'], None], [2., 5, 9, np.nan]
    t = pd.DataFrame(dict(item=[1, 2, 3, 4], category=kinds, price=prices))
    equal(item_mask(t, category='Drama'), [True, True, False, False])
    equal(item_mask(t, category='War'), [False, False, True, False])
    equal(item_mask(t, category=['Comedy', 'Horror'], price=(None, 6)), [False, True, False, False])
    equal(item_mask(t, price=(0, None)), [True, True, True, False])
    equal(item_mask(t, price=5), [False, True, False, False])
    equal(item_mask(t, item=lambda x: x % 2 == 0), [False, True, False, True])
    with ExceptionExpected(InputError, 'no such column'): item_mask(t, colour='red')
    with ExceptionExpected(InputError, "'Western' is not in"): item_mask(t, category='Western')


def test_titles_are_told_apart():
    twins = pd.DataFrame(dict(item=[1, 2, 3, 4, 5], title=['Emma', 'Emma', 'Dune', 'Heat', 'Heat'],
                              year=[1996., 2020., 1984., 1995., 1995.]))
    equal(distinct_titles(twins).tolist(),
            ['Emma (1996)', 'Emma (2020)', 'Dune', 'Heat (item 4)', 'Heat (item 5)'])


def test_a_table_has_no_empty_places():
    t = pd.DataFrame(dict(item=[1, 2], title=['a', 'b']))
    two = pd.DataFrame(dict(item=['a', 'b'], title=['Ada', 'Bob']))
    sh = to_table(two, *top_k(np.eye(2), ['a', 'b'], 3), ['u', 'v'])
    equal(len(sh), 4)                                              # no third item, no third place
    equal(sh.of('v').title.tolist(), ['Bob', 'Ada'])
    with ExceptionExpected(InputError, '1 users for 2 lists'): to_table(t, np.eye(2), np.eye(2))


def test_a_text_index_is_a_centred_cosine():
    rng = np.random.default_rng(0)
    v, q = rng.normal(size=(50, 8)) + 1, rng.normal(size=(2, 8)) + 1
    index = TextIndex(v)
    close(index.query(q), l2_normalize(q - v.mean(0)) @ l2_normalize(v - v.mean(0)).T)
    close(index.query(v[3])[0].argmax(), 3)


def test_a_mix_is_measured_by_the_rule_it_was_built_by():
    genres = pd.Series(['Action|Comedy', 'Comedy', ['War', 'Action'], None])
    C, names = category_shares(genres)
    equal(names, ['Action', 'Comedy', 'War'])
    equal(C.toarray(), [[.5, .5, 0], [0, 1, 0], [.5, 0, .5], [0, 0, 0]])
    past, lists = sp.csr_matrix([[1., 1, 0, 1]]), np.array([[2, 0, 3]])
    mix, listed = (past @ C).toarray()/2, C[lists[0]].toarray().sum(0)
    close(kl_divergence(mix, listed/listed.sum()), miscalibration(lists, past, C), eps=1e-6)
