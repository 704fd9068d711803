"""A chapter is read in one sitting: at most 60 cells that stand open on the page, short lessons, a picture.

Hidden cells (`#| hide`, `#| export`) are not on the page; folded ones (`#| code-fold: true`) and what stands between
`::: {.callout… collapse="true"` and `:::` show a line to click on."""
import json, re, statistics
from pathlib import Path
import pytest

NBS = Path(__file__).resolve().parents[1]/'nbs'
CHAPTERS = '''01_data 02_preprocess 03_metrics 04_evaluation 05_encode 06_pretrain 07_vectors 08_transfer 09_learner 10_discrepancy
              11_finetune 12_expert 13_baselines 14_closed_form 15_sequence 16_two_tower 19_judge 20_explain 21_online 22_privacy
              23_recommender 25_service 26_own_files
              27_confidence 28_semantic_ids 29_lm_recommender 30_ecommerce 31_social 32_video 33_more_scenarios 34_pictures
              35_embedding_space 36_encoder_choice 37_tuned_text 38_off_policy 39_transfer_study 41_leakage 42_shortcuts'''.split()
MEDIAN = {'25_service': 8, '35_embedding_space': 7}   # lines of a code cell that stands open, functions too; 6 for all others

def cells(stem): return [(c['cell_type'], ''.join(c['source'])) for c in json.loads((NBS/f'{stem}.ipynb').read_text(encoding='utf-8'))['cells']]
def is_open(kind, src):
    return bool(src.strip()) and (kind == 'markdown' or not re.search(r'^#\| *(hide|export|default_exp.*|code-fold: true) *$', src, re.M))
def lines(src): return len([l for l in src.splitlines() if l.strip() and not l.startswith('#|')])

def seen(stem):
    "Cells that stand open on the page, those of collapsed callouts left out."
    closed = False
    for kind, src in cells(stem):
        closed = closed or kind == 'markdown' and 'collapse="true"' in src
        if kind == 'markdown' and src.strip().endswith(':::'): closed = False
        elif not closed and is_open(kind, src): yield kind, src
    assert not closed, f'{stem}: a callout is not closed'

@pytest.mark.parametrize('stem', CHAPTERS)
def test_a_chapter_is_short(stem):
    here = list(seen(stem))
    code = [lines(src) for kind, src in here if kind == 'code']
    assert len(here) <= 60 and statistics.median(code) <= MEDIAN.get(stem, 6), (len(here), statistics.median(code))

@pytest.mark.parametrize('stem', CHAPTERS)
def test_a_lesson_is_short(stem):
    lessons = [lines(src) for kind, src in seen(stem) if kind == 'code' and not src.startswith('#| exports')]
    assert max(lessons) <= 15

@pytest.mark.parametrize('stem', CHAPTERS)
def test_a_chapter_has_a_picture_with_words(stem):
    figures = [src for _, src in cells(stem) if '#| fig-alt: ' in src]
    assert figures and all(len(re.search(r'#\| fig-alt: (.*)', src)[1]) > 60 for src in figures)
