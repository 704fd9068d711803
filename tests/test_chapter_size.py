"""A chapter is read in one sitting: at most 60 cells that stand open on the page, short lessons, a picture.

Hidden cells (`#| hide`, `#| export`) are not on the page; folded ones (`#| code-fold: true`) and what stands between
`::: {.callout… collapse="true"` and `:::` show a line to click on."""
import json, re, statistics
import pytest
import shape
from shape import cells, lines

CHAPTERS = '''01_data 02_preprocess 03_metrics 04_evaluation 05_encode 06_pretrain 07_vectors 08_transfer 09_learner 10_discrepancy
              11_finetune 12_expert 13_baselines 14_closed_form 15_sequence 16_two_tower 17_fusion 18_lists 19_judge 20_explain 21_online 22_privacy
              23_recommender 24_pipeline 25_service 26_own_files
              27_confidence 28_semantic_ids 29_lm_recommender 30_ecommerce 31_social 32_video 33_more_scenarios 34_pictures
              35_embedding_space 36_encoder_choice 37_tuned_text 38_off_policy 39_transfer_study 40_results 41_leakage 42_shortcuts'''.split()

def seen(stem): return shape.seen(cells(stem), stem)

@pytest.mark.parametrize('stem', CHAPTERS)
def test_a_chapter_is_short(stem):
    here = list(seen(stem))
    code = [lines(src) for kind, src in here if kind == 'code']
    assert len(here) <= 60 and statistics.median(code) <= 6, (len(here), statistics.median(code))

@pytest.mark.parametrize('stem', CHAPTERS)
def test_a_lesson_is_short(stem):
    lessons = [lines(src) for kind, src in seen(stem) if kind == 'code' and not src.startswith('#| exports')]
    assert max(lessons) <= 15

@pytest.mark.parametrize('stem', CHAPTERS)
def test_a_chapter_has_a_picture_with_words(stem):
    figures = [src for _, src, _ in cells(stem) if '#| fig-alt: ' in src]
    assert figures and all(len(re.search(r'#\| fig-alt: (.*)', src)[1]) > 60 for src in figures)

def test_the_table_of_the_book():
    "`python tests/shape.py` on a small book."
    def code(src, outputs=()): return dict(cell_type='code', source=src, outputs=list(outputs))
    def md(src): return dict(cell_type='markdown', source=src)
    picture = dict(data={'image/png': 'x'})
    def book(*cells): return shape.read(json.dumps(dict(cells=cells)))
    old = book(md('word '*81), code('x\n'*20, [picture]), code('#| hide\ny'))
    new = book(md('why'), md('::: {.callout-note collapse="true" title="t"}'), code('x\n'*20), md(':::'), code('#| fig-alt: z\nx'))
    assert shape.shape(old) == {'cells': 3, 'open': 2, 'median': 20, 'p90': 20, 'over 15': 1, 'over 80 words': 1, 'figures': 1}
    assert shape.shape(new) == {'cells': 5, 'open': 2, 'median': 1, 'p90': 1, 'over 15': 0, 'over 80 words': 0, 'figures': 0}
    head, _, first, second, third, total = shape.table(dict(lists=new, judge=old, other=new), dict(recommend=old))
    assert first == '| recommend | lists | 3 → 5 | 2 → 2 | 20 → 1 | 20 → 1 | 1 → 0 | 1 → 0 | 1 → 0 |'
    assert second.startswith('|  | judge | 3 | 2 |') and third.startswith('|  | other | 5 |') and total.startswith('| all | all | 3 → 13 |')
    assert len(shape.table(dict(lists=new))) == 4
