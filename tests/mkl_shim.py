"""MKL behind NumPy and SciPy of an environment, for tests/test_golden.py: their wheels bring OpenBLAS, and none on PyPI brings MKL.

    pip download --no-deps mkl && unzip -j mkl-*.whl '*/libmkl_*' -d MKL       # the libraries alone
    python tests/mkl_shim.py SITE_PACKAGES MKL                                  # of a throw-away environment: its libraries are replaced
    MKL_THREADING_LAYER=SEQUENTIAL python tests/test_golden.py --check          # with the Python of that environment

The functions that NumPy and SciPy ask their own OpenBLAS for (`scipy_dgemm_`, `scipy_cblas_dgemm64_` …) become jumps to those of libmkl_rt with
32-bit and with 64-bit integers. Needs Linux on x86-64, gcc and nm."""
import subprocess, sys, tempfile
from pathlib import Path

STUB = '''int scipy_openblas_get_num_threads{0}(void){{return 1;}}
void scipy_openblas_set_num_threads{0}(int n){{}}
char* scipy_openblas_get_config{0}(void){{return "names of OpenBLAS, MKL behind them";}}
int scipy_openblas_get_parallel{0}(void){{return 0;}}
char* scipy_openblas_get_corename{0}(void){{return "MKL";}}
'''

def symbols(library, which):
    "Names that a library defines or asks for (`--defined-only`, `--undefined-only`)."
    lines = subprocess.run(['nm', '-D', which, str(library)], capture_output=True, text=True).stdout.splitlines()
    return {line.split()[-1].split('@')[0] for line in lines if len(line.split()) > 1}

def of_mkl(name):
    "MKL's name of a function of the OpenBLAS in a wheel."
    name = name.removeprefix('scipy_')
    return name[:-3] + '_64' if name.startswith('cblas_') and name.endswith('64_') else name

def jumps(names):
    "Assembler: each name jumps to MKL's."
    each = [f'.globl {n}\n.type {n},@function\n{n}:\njmp *{of_mkl(n)}@GOTPCREL(%rip)' for n in sorted(names)]
    return '\n'.join(['.text', *each, '.section .note.GNU-stack,"",@progbits\n'])

def replace(site, package, mkl):
    "Put a library of jumps in the place of the OpenBLAS of a package; how many functions."
    own = next((site/f'{package}.libs').glob('libscipy_openblas*.so'))
    asked = set().union(*(symbols(so, '--undefined-only') for so in (site/package).rglob('*.so')))
    names = {n for n in asked & symbols(own, '--defined-only') if n.startswith('scipy_') and 'openblas' not in n}
    there = symbols(mkl, '--defined-only')
    lost = [n for n in names if of_mkl(n) not in there]
    if lost: sys.exit(f'{mkl.name} has no {", ".join(map(of_mkl, lost[:5]))}')
    with tempfile.TemporaryDirectory() as folder:
        asm, stub, made = (Path(folder)/x for x in ('jumps.s', 'stub.c', 'made.so'))
        asm.write_text(jumps(names))
        stub.write_text(STUB.format('64_' if package == 'numpy' else ''))
        subprocess.run(['gcc', '-shared', '-fPIC', '-o', made, asm, stub, f'-Wl,-soname,{own.name}', '-Wl,--no-as-needed', mkl,
                        f'-Wl,-rpath,{mkl.parent}'], check=True)
        own.unlink()                               # a process that runs keeps the old one
        own.write_bytes(made.read_bytes())
    return len(names)

def main():
    site, folder = (Path(x).resolve() for x in sys.argv[1:3])
    mkl = next(folder.glob('libmkl_rt.so*'))
    for package in ('numpy', 'scipy'): print(package, replace(site, package, mkl), 'functions')

if __name__ == '__main__': main()
