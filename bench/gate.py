"""What the parts of the gate are worth: the same experts under other gates, by the interactions of the items, paired over users.

    python bench/gate.py DIR --csv bench/gate.csv [--sets tweets lastfm]     # sets of bench/unseen.py; a set that is in the file is not run again

Each set is fitted once (`budget='fast'`, at most `--users` test users). The choices that the gate learns from are kept, and the experts' scores of the
test users; each row is another gate on the same numbers. `change` is its NDCG@10 minus that of the gate in use, with a paired 95 % interval.

as it is: `fit_gate` as `Fusion` calls it · likelihood: focus 0 · weaker priors: focus 0 and the priors divided by 1/.15, since the focused loss is that
much steeper · focus .5 · no lift, lift 3: weight of choices of items with fewer than five interactions · one weight: no dependence on evidence but
the offsets · nothing but weights: no offsets either · equal weights · best expert: the one with the best NDCG@10 of the choices · stepwise: experts
added one by one, with replacement, as long as NDCG@10 of the choices grows (Caruana et al., 2004), 25 steps at most · coordinates: one weight after the
other by NDCG@10 of the choices, three rounds over ten values · lightest out: without the experts that `Fusion` leaves out before the final fit, those
with less than a hundredth of the weight (all other rows keep them) · - EASE, ...: without all experts of one class.
"""
from dataclasses import replace
import numpy as np, pandas as pd, torch
from common import BUCKETS, NAMES, by_set, load

def fitted(root, name, users):
    "A recommender, the choices of its gate, and standardised scores of the test users."
    from llmrec.dataset import histories, seen_items
    from llmrec.fusion import Fusion, standardize_scores
    from llmrec.recommender import Recommender
    target, split, source, gone = load(root, name, users)
    kept = {}
    learned, lighter = Fusion._learned_gate, Fusion._without_light
    def keep(self, lesson):
        gate = learned(self, lesson)
        kept['choices'] = lesson.sets[0]
        return gate
    Fusion._learned_gate, Fusion._without_light = keep, lambda self, lesson: lesson
    try: rec = Recommender('minilm', budget='fast').fit(target.with_log(split.train), source, split.valid)
    finally: Fusion._learned_gate, Fusion._without_light = learned, lighter
    data = rec.data
    index = data.all_items[0]
    item = index.get_indexer(pd.Index(split.test['item'], dtype=object))
    hist = histories(data, split.test['user'])
    new = ~seen_items(hist, data.n_target)
    if gone is not None:
        place = pd.Series(np.arange(len(split.test)), split.test['user'])
        row, column = place.reindex(gone['user']).to_numpy(), index.get_indexer(pd.Index(gone['item'], dtype=object))
        known = ~np.isnan(row) & (column >= 0)
        new[row[known].astype(int), column[known]] = False
    new[np.arange(len(item)), item] = True
    z = np.stack([standardize_scores(x.score_histories(hist), new).astype(np.float16) for x in rec.experts], -1)
    return rec, kept['choices'], z, new, item, hist

def ranks(score, new, item):
    "Rank of each test item; equal scores share theirs."
    out = np.zeros(len(item))
    for start in range(0, len(item), 200):
        rows = slice(start, min(start + 200, len(item)))
        s = np.where(new[rows], score(rows), -np.inf)
        own = s[np.arange(len(s)), item[rows]][:, None]
        out[rows] = (s > own).sum(1) + ((s == own).sum(1) - 1)/2
    return out

def by_gate(rec, gate, z, new, item, hist):
    "Ranks under a gate."
    from llmrec.fusion import item_log_counts, user_log_counts
    levels, at = np.unique(item_log_counts(rec.data.counts[:rec.data.n_target]), return_inverse=True)
    old, rec.fusion.gate = rec.fusion.gate, gate
    weights, offset = rec.fusion.weights(levels, user_log_counts(hist.lengths))
    rec.fusion.gate = old
    def score(rows): return (z[rows].astype(np.float32)*weights[rows][:, at]).sum(-1) + offset[rows][:, at]
    return ranks(score, new, item)

def of_choices(choices, weight):
    "NDCG@10 of the choices under plain weights."
    scores = choices.scores @ torch.as_tensor(weight, dtype=torch.float32)
    own = scores.gather(1, choices.target[:, None])
    rank = (((scores > own).float() + .5*(scores == own).float())*choices.log_weight.exp()).sum(1) - .5
    return float(torch.where(rank < 10, 1/torch.log2(rank + 2), 0.).mean())

def stepwise(choices, steps=25):
    "Weights by adding experts one by one."
    n = choices.scores.shape[-1]
    weight, best = np.zeros(n), 0.
    for _ in range(steps):
        found = [of_choices(choices, weight + np.eye(n)[e]) for e in range(n)]
        if max(found) <= best: break
        best = max(found)
        weight[int(np.argmax(found))] += 1
    return weight

def coordinates(choices, rounds=3):
    "Weights one after the other."
    weight = np.full(choices.scores.shape[-1], .3)
    for _ in range(rounds):
        for e in range(len(weight)):
            tried = [0., .03, .06, .12, .25, .5, 1., 2., weight[e]*.7, weight[e]*1.4]
            found = [of_choices(choices, np.where(np.arange(len(weight)) == e, x, weight)) for x in tried]
            weight[e] = tried[int(np.argmax(found))]
    return weight

def flat(choices, offsets):
    "A gate whose weights do not depend on evidence."
    from llmrec import fusion
    from llmrec.algebra import minimize_lbfgs
    gate = fusion.Gate(choices.scores.shape[-1])
    learned = [gate.bias] + ([gate.offset_weights] if offsets else [])
    for p in gate.parameters(): p.requires_grad_(any(p is x for x in learned))
    pairs, total = fusion.unique_evidence_pairs(choices), float(choices.weight.sum())
    for focus in (0., .15):
        minimize_lbfgs(lambda: (fusion.choice_loss(gate, choices, pairs, focus) + gate.penalty())/total, learned, 150)
    return gate.requires_grad_(False)

def subsets(rec, choices):
    "Numbers of the experts that are left: without the lightest, and without each class."
    from llmrec.fusion import fit_gate, weight_shares
    kinds = [type(x).__name__ for x in rec.experts]
    share = weight_shares(fit_gate([choices], len(kinds)), [choices])
    left = {'lightest out': np.nonzero(share >= .01)[0]}
    for kind in dict.fromkeys(kinds): left[f'- {kind}'] = np.nonzero(np.array(kinds) != kind)[0]
    return left

def run(root, name, users):
    "All gates of one set, as rows."
    from llmrec.fusion import fit_gate, rare_item_weights
    from llmrec.metrics import paired_interval
    rec, choices, z, new, item, hist = fitted(root, name, users)
    n = z.shape[-1]
    plain = replace(choices, weight=torch.ones(len(choices.target)))
    chosen = choices.item_evidence.gather(1, choices.target[:, None])[:, 0].numpy()
    lifted = replace(choices, weight=rare_item_weights(np.expm1(5*chosen) + .01, 3.))
    gates = {'as it is': lambda: fit_gate([choices], n), 'likelihood': lambda: fit_gate([choices], n, focus=0.),
             'weaker priors': lambda: fit_gate([choices], n, .45, .45, .15, focus=0.), 'focus .5': lambda: fit_gate([choices], n, focus=.5),
             'no lift': lambda: fit_gate([plain], n), 'lift 3': lambda: fit_gate([lifted], n),
             'one weight': lambda: flat(choices, True), 'nothing but weights': lambda: flat(choices, False)}
    found = {kind: by_gate(rec, make(), z, new, item, hist) for kind, make in gates.items()}
    single = int(np.argmax([of_choices(plain, np.eye(n)[e]) for e in range(n)]))
    weights = {'equal weights': np.ones(n), 'best expert': np.eye(n)[single], 'stepwise': stepwise(plain), 'coordinates': coordinates(plain)}
    for kind, weight in weights.items():
        found[kind] = ranks(lambda rows, w=weight.astype(np.float32): z[rows].astype(np.float32) @ w, new, item)
    for kind, kept in subsets(rec, choices).items():
        some = replace(choices, scores=choices.scores[..., kept].contiguous())
        found[kind] = by_gate(rec, fit_gate([some], len(kept)), z[..., kept], new, item, hist)
    bucket = np.digitize(rec.data.counts[item], [1, 5, 20])
    ndcg = {kind: np.where(r < 10, 1/np.log2(r + 2), 0) for kind, r in found.items()}
    rows = []
    for kind, r in found.items():
        low, high = paired_interval(ndcg[kind] - ndcg['as it is']) if kind != 'as it is' else (np.nan, np.nan)
        cells = {f'recall [{b}]': (r[bucket == i] < 10).mean() if (bucket == i).any() else np.nan for i, b in enumerate(BUCKETS)}
        rows.append(dict(set=name, gate=kind, users=len(item), choices=len(choices.target), experts=n, ndcg=ndcg[kind].mean(), recall=(r < 10).mean(), **cells,
                         change=(ndcg[kind] - ndcg['as it is']).mean(), lo=low, hi=high))
    print(pd.DataFrame(rows).round(4).to_string(index=False), flush=True)
    return rows

if __name__ == '__main__': by_set(__doc__, run, 'gate.csv', NAMES[:6], ('set', 'gate'))
