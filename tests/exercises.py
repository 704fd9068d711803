"""Code of folded solutions: `python` blocks inside `<details>` of a chapter. tests/test_notebooks.py runs them where they stand."""
import re, textwrap

FLAGS = 'notest cuda slow net'.split()

def blocks(md:str)->list:
    "Code blocks of the solutions in a text, as they would be typed; those under a flag are not run and not listed."
    folded = '\n'.join(re.findall(r'<details>(.*?)</details>', md, re.S))
    found = [textwrap.dedent(b) for b in re.findall(r'^ *```python\n(.*?)^ *```', folded, re.M | re.S)]
    return [b for b in found if not re.match(rf'#\| ({"|".join(FLAGS)})\b', b)]
