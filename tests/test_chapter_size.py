"""A chapter is read in one sitting: at most 60 cells that stand open on the page, short lessons, a picture.

Hidden cells (`#| hide`, `#| export`) are not on the page; folded ones (`#| code-fold: true`) show a line to click on."""
import json, re, statistics
from pathlib import Path
import pytest

NBS = Path(__file__).resolve().parents[1]/'nbs'
CHAPTERS = ('01_data 02_preprocess 03_metrics 04_evaluation 05_encode 06_pretrain 07_vectors 35_embedding_space '
            '23_recommender 25_service 26_own_files 38_off_policy').split()

def cells(stem): return [(c['cell_type'], ''.join(c['source'])) for c in json.loads((NBS/f'{stem}.ipynb').read_text(encoding='utf-8'))['cells']]
def is_open(kind, src):
    return bool(src.strip()) and (kind == 'markdown' or not re.search(r'^#\| *(hide|export|default_exp.*|code-fold: true) *$', src, re.M))
def lines(src): return len([l for l in src.splitlines() if l.strip() and not l.startswith('#|')])

@pytest.mark.parametrize('stem', CHAPTERS)
def test_a_chapter_is_short(stem):
    seen = [(kind, src) for kind, src in cells(stem) if is_open(kind, src)]
    lessons = [lines(src) for kind, src in seen if kind == 'code' and not src.startswith('#| exports')]
    assert len(seen) <= 60 and statistics.median(lessons) <= 7, (len(seen), statistics.median(lessons))

@pytest.mark.parametrize('stem', CHAPTERS)
def test_a_chapter_has_a_picture_with_words(stem):
    figures = [src for _, src in cells(stem) if '#| fig-alt: ' in src]
    assert figures and all(len(re.search(r'#\| fig-alt: (.*)', src)[1]) > 60 for src in figures)
