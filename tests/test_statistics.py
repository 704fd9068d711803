"""What may be called equal, which effect is larger, which half fails; and the mistakes of the book that were mended."""
import json, re, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from scipy import stats
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.evaluation import Report, compare, evaluate
from llmrec.metrics import (FEW_TESTS, diagnose_ranks, difference_of_differences, equivalence, holm, paired_comparison, paired_interval,
                            permutation_p)
from llmrec.preprocess import split_last

ROOT = Path(__file__).resolve().parents[1]
G = np.random.default_rng


# Equality
def test_equality_needs_users_and_a_margin():
    d = G(0).normal(0, .1, 4000)
    assert equivalence(d, .01)[0] and not equivalence(d[:50], .01)[0] and not equivalence(d + .05, .01)[0]
    within, lo, hi = equivalence(d, .01)
    assert (lo, hi) == paired_interval(d, level=.9) and lo < d.mean() < hi
    for margin in (0, -.1, np.nan):
        with pytest.raises(InputError, match='margin'): equivalence(d, margin)
    assert not equivalence(d[:3], .01)[0]                     # too few for an interval: nothing is shown

def test_equality_is_rarely_claimed_at_the_margin():
    "With a true difference of exactly the margin, equality is claimed in about one case of twenty."
    wrong = [equivalence(G(s).normal(.03, .2, 150), .03, 400)[0] for s in range(120)]
    assert np.mean(wrong) < .12

def reports(seed=0, n=120):
    "Two reports under one protocol whose users differ by noise only, and one that is better."
    toy = make_synthetic_pair(seed).target
    s = split_last(toy)
    class Noise:
        def __init__(self, k): self.k, self.items = k, toy.items['item'].to_numpy()
        def score(self, users): return G(self.k).random((len(users), len(self.items)))
    return {f'r{k}': evaluate(Noise(k), s, items=toy.items, audit=False, n_boot=0, slices=()) for k in range(3)}

def test_a_verdict_says_equal_only_with_a_margin():
    r = reports()
    plain = compare(r)
    assert 'equivalent' not in plain.verdict and 'equivalent' not in plain.table and ' tie,' in plain.verdict
    wide = compare(r, margin=.5)
    assert wide.table.equivalent.all() and 'equivalent within ±0.5' in wide.verdict
    tight = compare(r, margin=1e-6)
    assert not tight.table.equivalent.any() and 'no statistically significant difference' in tight.verdict
    # two comparisons: each at half the level, so the interval is wider than for one
    one = compare({k: r[k] for k in ('r0', 'r1')}, margin=.5)
    assert one.table.eq_hi[0] - one.table.eq_lo[0] < wide.table.eq_hi[0] - wide.table.eq_lo[0]

def test_all_rows_of_a_table_are_corrected_together():
    r = reports()
    c = compare(r, ['ndcg@10', 'recall@10', 'mrr@10'])
    assert len(c.table) == 6 and np.allclose(c.table.p_holm, holm(c.table.p))


# Effects
def test_a_difference_of_differences_is_welch_or_paired():
    a, b = G(0).normal(.02, .1, 200), G(1).normal(.01, .2, 150)
    d = difference_of_differences(a, b)
    t = stats.ttest_ind(a, b, equal_var=False)
    assert np.isclose(d['p'], t.pvalue) and np.isclose(d['difference'], a.mean() - b.mean()) and d['lo'] < d['difference'] < d['hi']
    p = difference_of_differences(a[:150], b, paired=True)
    assert np.isclose(p['difference'], (a[:150] - b).mean()) and p['p'] == permutation_p(a[:150] - b)
    with pytest.raises(InputError, match='expected one of each user'): difference_of_differences(a, b, paired=True)

def test_one_significant_and_one_not_may_not_differ():
    a, b = [stats.zscore(G(s).normal(size=300))*.15 + mean for s, mean in ((3, .020), (5, .012))]
    assert permutation_p(a) < .05 < permutation_p(b) and difference_of_differences(a, b)['p'] > .05

def test_a_paired_comparison_leaves_missing_users_out():
    c = paired_comparison(np.array([.3, .2, .1, np.nan]*9), np.array([.1, .2, .2, 1.]*9))
    assert (c['wins'], c['ties'], c['losses']) == (9, 9, 9) and 'equivalent' not in c


# Diagnosis
def test_coverage_times_success_is_the_hit_rate():
    r = G(0).integers(0, 400, 1000).astype(float)
    r[::10] = np.inf
    d = diagnose_ranks(r)
    assert np.isclose(d['hit'], (r < 10).mean()) and np.isclose(d['coverage'], (r < 100).mean())
    assert d['fails'] == 'ranking' and diagnose_ranks(np.where(r < 100, 0, r))['fails'] == 'retrieval'
    assert diagnose_ranks(np.zeros(5))['fails'] == 'nothing' and diagnose_ranks(np.full(5, np.inf))['coverage'] == 0
    assert diagnose_ranks(np.zeros(0))['hit'] == 0
    for k, n in ((10, 10), (0, 10)):
        with pytest.raises(InputError): diagnose_ranks(r, k, n)

def test_a_report_says_which_half_fails_and_its_regime(tmp_path):
    r = next(iter(reports().values()))
    assert set(r.diagnosis) == {'n', 'k', 'coverage', 'success', 'hit', 'fails'}
    notes = '\n'.join(r.notes)
    assert 'regime: ' in notes and 'leave-one-out' in notes and 'coverage@' in notes and r.protocol['regime']['shared_users'] is None
    r.to_json(tmp_path/'r.json')
    again = Report.from_json(tmp_path/'r.json')
    assert again.diagnosis == r.diagnosis and again.notes == r.notes
    old = json.loads((tmp_path/'r.json').read_text())
    old.pop('diagnosis'), old['protocol'].pop('regime')
    assert Report.from_json(json.dumps(old)).diagnosis == {} and 'regime' not in ' '.join(Report.from_json(json.dumps(old)).notes)

def test_the_regime_counts_the_users_of_the_source():
    toy = make_synthetic_pair(0)
    s = split_last(toy.target)
    class Flat:
        items = toy.target.items['item'].to_numpy()
        def score(self, users): return np.zeros((len(users), len(self.items)))
    r = evaluate(Flat(), s, audit=False, n_boot=0, slices=(), source=toy.source)
    shared = s.test['user'].drop_duplicates().isin(toy.source.users).mean()
    assert r.protocol['regime']['shared_users'] == pytest.approx(shared)

def test_lists_have_no_diagnosis():
    toy = make_synthetic_pair(0).target
    s = split_last(toy)
    lists = {u: toy.items['item'].tolist()[:10] for u in s.test['user']}
    assert evaluate(lists, s, items=toy.items, audit=False, n_boot=0).diagnosis == {}

def test_cells_of_few_test_interactions_are_grey():
    import matplotlib; matplotlib.use('Agg')
    toy = make_synthetic_pair(0).target
    s = split_last(toy)
    class Counts:
        items = toy.items['item'].to_numpy()
        def score(self, users): return np.tile(s.train['item'].value_counts().reindex(self.items).fillna(0).to_numpy(float), (len(users), 1))
    r = evaluate(Counts(), s, items=toy.items, audit=False, n_boot=100)
    few = int((r.slices.rows < FEW_TESTS).sum())
    assert few and r._repr_html_().count('color: #999') >= 1
    colours = [t.get_color() for t in r.plot().axes[1].texts]
    assert colours.count('#888') == few and len(colours) == len(r.slices)


# Mistakes of the book
def cells(stem):
    nb = json.loads((ROOT/'nbs'/f'{stem}.ipynb').read_text(encoding='utf-8'))
    return [''.join(c['source']) for c in nb['cells']]
def prose(stem): return '\n'.join(cells(stem))

@pytest.mark.parametrize('stem, wrong', [
    ('08_transfer', 'Five relatives'), ('09_learner', 'naive loop to the last bit'), ('07_vectors', 'ranks items alike. With a dot product'),
    ('11_finetune', 'literal $W + BA$'), ('11_finetune', 'only produce ever passes'), ('14_closed_form', "(Fisher's linear discriminant)"),
    ('01_data', 'none shared is the normal case'), ('10_discrepancy', 'of the median width'), ('22_privacy', 'are public as the item table is;'),
    ('04_evaluation', 'This table is why the'), ('17_fusion', 'targets that no benchmark of the book uses'),
    ('06_pretrain', '$N_i$ leaves out every $b_j$ that is the same text as'), ('01_data', 'The literal transcription of @eq-toy gives')])
def test_a_mistake_of_the_first_edition_does_not_return(stem, wrong): assert wrong not in prose(stem)

def test_the_relatives_of_the_penalty_are_counted_right():
    md = cells('08_transfer')
    start = next(i for i, c in enumerate(md) if 'relatives of the penalty' in c)
    rest = md[start + 1:]
    end = next(i for i, c in enumerate(rest) if c.startswith('## '))
    words = {2: 'Two', 3: 'Three', 4: 'Four', 5: 'Five'}
    assert md[start].strip() == f"## {words[sum(c.startswith('### ') for c in rest[:end])]} relatives of the penalty"

def test_a_positive_factor_changes_no_ranking_of_one_user():
    from llmrec.vectors import interest_vector
    g = G(0)
    D, w, B = g.normal(size=(5, 9)), g.random(5), g.normal(size=(40, 9))
    assert (np.argsort(B @ interest_vector(D, w)) == np.argsort(B @ (w @ D))).all()

def test_info_nce_leaves_out_what_the_text_says():
    "A pair whose partner shares the text is no negative either."
    import torch
    from llmrec.pretrain import info_nce
    a, b = [torch.nn.functional.normalize(torch.tensor(G(s).normal(size=(3, 4)), dtype=torch.float32), dim=1) for s in (0, 1)]
    full = info_nce(a, b, .5, torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]))
    same = info_nce(a, b, .5, torch.tensor([0, 0, 2]), torch.tensor([3, 4, 5]))      # a_0 and a_1 are one text
    def one(i, j): return (a[i]@b[j]/.5).exp()
    rows = [-torch.log(one(i, i)/sum(one(i, j) for j in N)) for i, N in ((0, (0, 2)), (1, (1, 2)), (2, (0, 1, 2)))]
    columns = [-torch.log(one(i, i)/sum(one(j, i) for j in N)) for i, N in ((0, (0, 2)), (1, (1, 2)), (2, (0, 1, 2)))]
    assert torch.isclose(same, (sum(rows) + sum(columns))/6) and same < full

def test_lr_find_warns_at_the_edge_of_its_range():
    import torch
    from llmrec.learner import DataLoaders, Learner, TensorLoader
    torch.manual_seed(0)
    X = torch.randn(64, 4)
    dls = DataLoaders(TensorLoader(X, (X[:, 0] > 0).long(), bs=16), TensorLoader(X, (X[:, 0] > 0).long(), bs=16))
    with pytest.warns(UserWarning, match='raise hi'): Learner(torch.nn.Linear(4, 2), dls).lr_find(hi=1e-3, steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rate, table = Learner(torch.nn.Linear(4, 2), dls).lr_find(hi=1e4, steps=120)
    assert rate <= table.lr.max()/10*(1 + 1e-9) and table.lr.max() < 1e4          # it stopped where the loss exploded

def test_mmd_of_the_median_is_as_the_chapter_says():
    import torch
    from llmrec.discrepancy import mmd
    x, y = (torch.tensor(G(s).normal(size=(12, 3)), dtype=torch.float64) for s in (0, 1))
    both = torch.cat([x, y])
    squares = torch.cdist(both, both)**2
    above = torch.triu_indices(24, 24, 1)
    gamma = 1/squares[above[0], above[1]].median()
    assert torch.isclose(torch.as_tensor(mmd(x, y)), torch.as_tensor(mmd(x, y, gamma=float(gamma))), rtol=1e-6)
