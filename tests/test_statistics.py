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
    assert colours.count('#666') == few and len(colours) == len(r.slices)


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

# One rule for the words of the index and of 40 (bench/common.py)
import sys
sys.path.insert(0, str(ROOT/'bench'))
import common

def differences(gain, half, chosen=None):
    "Rows as in bench/unseen.csv, by set."
    gain, half = np.asarray(gain, float), np.asarray(half, float)
    rows = pd.DataFrame({'default minus': gain, 'default lo': gain - half, 'default hi': gain + half}, index=[f's{i}' for i in range(len(gain))])
    return rows.assign(chosen_on=False if chosen is None else chosen)

def test_verdicts_are_corrected_over_the_sets():
    "A difference that is significant alone is not among nine others; p is that of the normal interval."
    one = differences([.02], [.0175])
    assert list(common.verdicts(one)) == ['higher']
    ten = differences([.02] + [0.]*9, [.0175]*10)
    assert common.verdicts(ten).iloc[0] == 'not significant'
    p = 2*stats.norm.sf(.02/(.0175/stats.norm.ppf(.975)))
    assert .005 < p < .05 and holm(np.array([p] + [1.]*9))[0] > .05

def test_verdicts_leave_out_sets_that_had_a_part_in_a_choice():
    rows = differences([.05, .05, np.nan], [.01, .01, .01], [True, False, False])
    assert list(common.verdicts(rows).index) == ['s1'] and common.said(common.verdicts(rows)).startswith('of 1 set without a star')
    assert not len(common.verdicts(rows[:1])) and 'no set without a star' in common.said(common.verdicts(rows[:1]))

def test_equal_only_within_the_margin():
    "A narrow interval within the margin is equality, a wide one around zero is not; a significant difference stays one, however small."
    found = common.verdicts(differences([0., 0., .003, -.03], [.001, .02, .001, .005]))
    assert list(found) == ['equal', 'not significant', 'higher', 'lower']
    assert f'equal within ±{common.MARGIN:g} on 1' in common.said(found)
    edge = common.MARGIN - .0001
    assert list(common.verdicts(differences([edge], [.02])) ) == ['not significant']

def test_words_of_a_table_with_a_difference_of_exactly_zero():
    "Twins that rank alike are equal."
    assert list(common.verdicts(differences([0.], [0.]))) == ['equal']

def test_cells_of_few_test_interactions_are_no_numbers():
    rows = pd.DataFrame({'n [0]': [FEW_TESTS - 1, FEW_TESTS]}, index=['a', 'b'])
    assert list(common.enough(rows, '0')) == [False, True]

def test_index_and_results_say_words_by_one_rule():
    "Both call `verdicts` and `said`; neither has a rule of its own."
    for stem in ('index', '40_results'):
        code = prose(stem)
        assert 'from common import' in code and 'verdicts(' in code and 'said(' in code and 'enough(' in code, stem
        assert 'def verdicts' not in code and '.lo > 0' not in code and "hi'] < 0" not in code and 'holm(' not in code, stem

def test_the_average_of_the_index_is_over_sets_with_all_shortcuts():
    table = pd.read_csv(ROOT/'bench'/'unseen.csv')
    have = table[table.shortcut & ~table['set'].str.endswith('-k0')].groupby('set').system.nunique()     # without interactions: one
    assert (have[have.index.isin(table[table.system == 'default']['set'])] == 3).all()


# More mistakes of the book
@pytest.mark.parametrize('stem, right', [
    ('08_transfer', r'exact[^.]{0,60}SGD'), ('09_learner', r'exact[^.]{0,20}SGD'), ('06_pretrain', r'\\frac\{\\alpha\}\{r\}\s*BA'),
    ('10_discrepancy', r'\\sigma\^2.{0,30}half'), ('14_closed_form', r'total\*? covariance'), ('22_privacy', r'price.{0,80}does not cover|price.{0,80}not cover'),
    ('06_pretrain', r'chance = \(1/np\.log2'), ('39_transfer_study', r"tested\['p'\] = holm\("), ('41_leakage', r'standard error'),
    ('10_discrepancy', r'What `Recommender` uses'), ('11_finetune', r'FINETUNE_STRATEGIES'), ('40_results', r'ours: EASE` decays the history'),
    ('07_vectors', r'positive factor'), ('01_data', r'def choices_naive'), ('17_fusion', r"'one weight'"), ('24_pipeline', r'source kept or left out')])
def test_what_stands_in_the_place_of_a_mistake(stem, right): assert re.search(right, prose(stem), re.S), (stem, right)

def test_bands_of_prices_are_of_equal_share_and_one_price_is_in_the_middle():
    from llmrec.preprocess import PRICE_WORDS, price_bucket
    assert price_bucket([1, 2, 3, 4, 5]) == list(PRICE_WORDS)
    assert price_bucket([7.]) == ['medium price'] and set(price_bucket([2., 2, 2])) == {'medium price'}
    for n in (10, 25, 100):
        count = pd.Series(price_bucket(G(n).permutation(n) + 1.)).value_counts()
        assert (count == n/5).all() and len(count) == 5

def test_the_proximal_step_is_the_minimum_it_says():
    "Of ½|x - y|² + η λ |x - source|, over many x."
    import torch
    from llmrec.transfer import proximal_step_
    for seed in range(20):
        source, y = (torch.tensor(G(seed + 100*i).normal(size=5)) for i in (0, 1))
        x = y.clone()
        proximal_step_([source], [x], .7)
        def cost(z): return .5*((z - y)**2).sum(-1) + .7*(z - source).norm(dim=-1)
        others = x + torch.tensor(G(seed).normal(size=(2000, 5)))*.1
        assert (cost(others) >= cost(x) - 1e-12).all()

def test_the_penalty_of_the_conditional_logit_moves_the_optimum():
    "`ridge` is a penalty, not a damping of Newton's steps: the gradient of the penalised loss vanishes at what is found."
    from llmrec.vectors import conditional_logit
    X, y = G(0).normal(size=(200, 6, 3)), G(1).integers(0, 6, 200)
    X[np.arange(200), y] += .8
    found = {r: conditional_logit(X, y, r)[0] for r in (1e-6, 1., 10.)}
    sizes = [np.linalg.norm(found[r]) for r in (1e-6, 1., 10.)]
    assert sizes[0] > 1.5*sizes[1] > 1.5*sizes[2]

def test_an_order_without_meaning_is_no_alarm_one_that_tells_is():
    "The bound of the order check is that of the standard error of an AUC."
    from llmrec.leakage import ALARM_Z, _auc_error
    for n, m in ((5, 40), (30, 30)):
        auc = [stats.mannwhitneyu(G(s).normal(size=n), G(s + 10**6).normal(size=m)).statistic/(n*m) for s in range(600)]
        assert np.isclose(np.std(auc), _auc_error(n, m), rtol=.12)
    assert 4 < ALARM_Z < 4.1

def test_one_word_for_what_is_not_significant():
    "No code, no stored output, no table says *no effect*: words are helped, hurt, equal (by a test, within a margin that is stated) and not significant."
    from llmrec.finetune import EFFECT_MARGIN
    said = {p.name: p.read_text(encoding='utf-8') for p in (ROOT/'llmrec').glob('*.py')}
    for path in (ROOT/'nbs').glob('*.ipynb'):
        cells = [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
        said[path.name] = json.dumps([[c['source'], c['outputs']] for c in cells])
    assert not [name for name, text in said.items() if 'no effect' in text or 'statistically significant effect' in text]
    table = pd.read_csv(ROOT/'bench'/'transfer.csv')
    assert set(table.verdict) | set(table.auto_word.dropna()) == {'helped', 'hurt', 'equal', 'not significant'}
    equal = table[table.verdict == 'equal']
    assert (equal.gain.abs() < EFFECT_MARGIN).all() and (equal.users*EFFECT_MARGIN >= 3).all() and ((equal.lo <= 0) & (equal.hi >= 0)).all()
    assert f'MARGIN = {EFFECT_MARGIN}'.replace('0.', '.') in (ROOT/'bench'/'common.py').read_text()
