"""Hard cases of chapter 24 (the pipeline)."""
import tempfile
from pathlib import Path
import pandas as pd
from fastcore.test import ExceptionExpected, test_eq as equal, test_ne as differ
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.pipeline import (
    Options, ResultCache, _domain_names, data_key, keep_latest, load_pair, read_pair, run_pipeline)
from llmrec.recommender import Recommender
from llmrec.report import write_recommendations


def test_built_in_pairs():
    pair = load_pair('movielens')
    assert not pair.target.items.category.isna().any() and not len(pair.shared_items)
    with ExceptionExpected(InputError, 'no built-in pair'): load_pair('movilens')
    with ExceptionExpected(InputError, 'there are .*Western'): load_pair('movielens', target='Scifi')


def test_files_come_in_pairs_and_domains_have_two_names():
    with ExceptionExpected(InputError, 'go together'): read_pair(None, 'a.csv', 'b.csv', 'c.csv')
    equal([_domain_names(names) for names in (None, 'films', 'books,films')],
            [['source', 'target'], ['source', 'films'], ['books', 'films']])


def test_a_target_is_made_sparse_on_purpose():
    toy = make_synthetic_pair(0).target
    few, step = keep_latest(toy, 2)
    equal(few.log.groupby('user').size().max(), 4)
    equal(int(step['dropped'].iloc[0]), len(toy.log) - len(few.log))
    equal(keep_latest(toy, 0)[0] is toy, True)


def test_a_key_knows_options_and_data():
    toy = make_synthetic_pair(0)
    equal(data_key(toy, Options()), data_key(make_synthetic_pair(0), Options()))
    differ(data_key(toy, Options()), data_key(make_synthetic_pair(1), Options()))
    differ(data_key(toy, Options()), data_key(toy, Options(lam=.1)))
    with ExceptionExpected(InputError, 'lam is -1'): Options(lam=-1)


def test_a_cache_knows_damage_and_other_keys():
    with tempfile.TemporaryDirectory() as tmp:
        ResultCache(tmp, 'a').put('x', '1')
        equal(ResultCache(tmp, 'a').get('x'), '1')
        ResultCache(tmp, 'a').path('x').write_text('a byte too many')
        assert not ResultCache(tmp, 'a').has('x')
        assert not ResultCache(tmp, 'b').has('x') and not any(Path(tmp).iterdir())


def test_recommendations_are_one_table():
    toy = make_synthetic_pair(0)
    rec = Recommender('tfidf', budget='fast').fit(toy.target, toy.source)
    with tempfile.TemporaryDirectory() as tmp:
        write_recommendations(rec, rec.data.users[:3].tolist(), 2, Path(tmp)/'r.csv')
        out = pd.read_csv(Path(tmp)/'r.csv')
    equal(list(out.columns), ['user', 'rank', 'item', 'title', 'score'])
    equal(len(out), 6)


def test_stage_d_says_what_was_decided():
    toy = make_synthetic_pair(3, n_rows=(30, 10), shared=.5)
    with tempfile.TemporaryDirectory() as tmp:
        run = run_pipeline(toy, Options(encoder='tfidf'), tmp, quiet=True)
        stages = list(dict.fromkeys(stage for stage, _ in run.lines))
        told = [text for stage, text in run.lines if stage == 'D']
        assert any('user ids stand in both domains' in text for text in told)
        assert any(text.startswith('source: ') for text in told)
        assert stages.index('C') < stages.index('D') < stages.index('F')
        assert not any('A-distance' in text for text in told)
        kept = Recommender.load(Path(tmp)/'model')
        assert set(told) <= set(kept.plan)            # what the model did, not a number beside it
    with tempfile.TemporaryDirectory() as tmp:
        apart = run_pipeline(toy, Options(encoder='tfidf', strategy='unsupervised'), tmp, quiet=True)
    told = [text for stage, text in apart.lines if stage == 'D']
    equal(told[0], "strategy 'unsupervised', as asked")
    assert len(told) == 1
