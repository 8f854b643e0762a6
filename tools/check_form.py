"""Check the form of the code: ruff's format and rules, short cells, short functions, small notebooks.

usage: check_form.py [ROOT]        ROOT is the project's folder unless given

`ruff format --check` and `ruff check` read nbs/, tests/, tools/ and setup.py with the settings of pyproject.toml.
Four limits are checked in addition: lines of a code cell, lines and parameters of an exported function, bytes of
a notebook.
Each fault is one line: the file, the cell (counted from 1, as ruff does) and what is wrong. Nothing is changed.
"""

import ast, json, subprocess, sys
from pathlib import Path

MAX_CELL = 60  # lines of a code cell; blank lines and `#|` lines are not counted
MAX_FUNCTION = 40  # lines of an exported function; see `function_lines`
MAX_PARAMETERS = 8  # of an exported function, `self` and `cls` apart
MAX_KB = 500  # size of a notebook
CHECKED = ('nbs', 'tests', 'tools', 'setup.py')


def notebooks(root):
    "The notebooks below nbs/, without hidden folders and without the copies that runs leave behind"
    for path in sorted((root / 'nbs').rglob('*.ipynb')):
        folders = path.relative_to(root / 'nbs').parts
        if not any(name[0] in '._' or name == 'runs' for name in folders):
            yield path


def code_cells(path):
    "(number, source) of each code cell; cells of every kind are counted, from 1"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    for number, cell in enumerate(cells, 1):
        if cell['cell_type'] == 'code':
            yield number, ''.join(cell['source'])


def ruff(root, *command):
    "What ruff finds, one line each: file, cell, row, column, fault"
    present = [name for name in CHECKED if (root / name).exists()]
    call = [sys.executable, '-m', 'ruff', *command, '--no-cache', '--output-format', 'concise', *present]
    done = subprocess.run(call, cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f'check_form: ruff failed:\n{done.stderr.strip()}')
    return [line for line in done.stdout.splitlines() if line.startswith(tuple(present))]


def cell_lines(source):
    return sum(1 for line in source.splitlines() if line.strip() and not line.startswith('#|'))


def function_lines(function, source):
    "Lines of code of a parsed function. The signature counts as one; blank lines, comments and the docstring do not"
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    if not body:
        return 1
    lines = source.splitlines()[body[0].lineno - 1 : function.end_lineno]
    return 1 + sum(1 for line in lines if line.strip() and not line.strip().startswith('#'))


def long_functions(source):
    "(name, lines) of the functions of an exported cell that are too long"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = function_lines(node, source)
            if length > MAX_FUNCTION:
                yield node.name, length


def parameter_count(function):
    "Parameters of a parsed function, `self` and `cls` apart"
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return sum(1 for argument in arguments if argument.arg not in ('self', 'cls'))


def crowded_functions(source):
    "(name, parameters) of the functions of an exported cell that take too many"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and parameter_count(node) > MAX_PARAMETERS:
            yield node.name, parameter_count(node)


def limits(root):
    "The cells, functions and notebooks that are too long or too large, one line each"
    found = []
    for path in notebooks(root):
        name = path.relative_to(root).as_posix()
        size = path.stat().st_size / 1024
        if size >= MAX_KB:
            found.append(f'{name}: {size:.0f} KB, the limit is {MAX_KB}: remove or shrink pictures in its outputs')
        for number, source in code_cells(path):
            length = cell_lines(source)
            if length > MAX_CELL:
                found.append(f'{name}:cell {number}: {length} lines, the limit is {MAX_CELL}: split the cell')
            if source.startswith('#| export'):
                for function, count in crowded_functions(source):
                    fault = f'{function} takes {count} parameters, the limit is {MAX_PARAMETERS}: group some'
                    found.append(f'{name}:cell {number}: {fault}')
                for function, length in long_functions(source):
                    fault = f'{function} has {length} lines, the limit is {MAX_FUNCTION}: split the function'
                    found.append(f'{name}:cell {number}: {fault}')
    return found


def faults(root):
    "(the faults that `make sync` corrects, the faults to correct by hand)"
    return ruff(root, 'format', '--check'), ruff(root, 'check') + limits(root)


def report(root):
    "Print the faults of form with their remedies; returns how many there are"
    unformatted, by_hand = faults(root)
    for line in unformatted + by_hand:
        print(line)
    if unformatted:
        print(f'check_form: {len(unformatted)} not formatted; to format them, run: make sync')
    if by_hand:
        print(f'check_form: {len(by_hand)} to correct by hand')
    return len(unformatted) + len(by_hand)


if __name__ == '__main__':
    if len(sys.argv) > 2 or '-h' in sys.argv or '--help' in sys.argv:
        raise SystemExit(__doc__)
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    raise SystemExit(report(root) > 0)
