"""The committed measurements agree with each other and with the README.

Means are those of the cases, differences come out again when computed anew, and the README quotes the tables.
"""

from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from sabr.judge.statistics import difference_table, paired_difference

ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    'default': 'default',
    'URPC': 'urpc',
    'ICT': 'ict',
    'CPS': 'cps',
    'supervised only': 'supervised',
    'UA-MT': 'ua_mt',
    'Mean Teacher': 'mean_teacher',
    'UniMatch': 'unimatch',
    'SCO-SSL': 'sco_ssl',
    'BCP': 'bcp',
    'published': 'published',
}  # in the README -> in the tables
RUN = ['dataset', 'method', 'label_fraction', 'seed']
INTERVAL = ['diff', 'lo', 'hi']


def read(name):
    return pd.read_csv(ROOT / 'nbs' / 'experiments' / 'results' / name, dtype=dict(case=str, patient=str))


@pytest.fixture(scope='module')
def runs():
    return read('compare.csv')


@pytest.fixture(scope='module')
def cases():
    table = read('compare_cases.csv.gz')
    return table[table.stage != 'finetune']


@pytest.fixture(scope='module')
def parts():
    return read('ablate.csv'), read('ablate_cases.csv.gz')


def few_labels(table, dataset):
    return table[(table.dataset == dataset) & (table.label_fraction == 0.1)]


def differences(cases, score):
    "Default against each rival, computed again"
    by_method = {method: cases[cases.method == method] for method in NAMES.values()}
    return difference_table(by_method, 'default', score).set_index('rival')


def test_every_method_has_three_seeds(runs):
    few = runs[runs.label_fraction == 0.1]
    seeds = few.groupby(['dataset', 'method']).seed.apply(sorted)
    assert set(few.method) == set(NAMES.values()) and all(found == [0, 1, 2] for found in seeds)
    assert runs.groupby('dataset').image_passes.nunique().eq(1).all()


def test_runs_are_the_means_of_their_cases(runs, cases):
    mean = cases.groupby(RUN)[['dice', 'hd95', 'asd']].mean()
    there = runs.set_index(RUN).loc[mean.index]
    assert len(mean) == len(runs)
    np.testing.assert_allclose(mean.dice, there.dice, atol=1e-4)
    np.testing.assert_allclose(mean[['hd95', 'asd']], there[['hd95', 'asd']], atol=1e-3)


@pytest.mark.parametrize('dataset', ['busi', 'ddti'])
def test_differences_come_out_again(cases, dataset):
    found = read('compare_stats.csv')
    found = found[found.dataset == dataset].set_index('rival')
    again = differences(few_labels(cases, dataset), 'dice').loc[found.index]
    np.testing.assert_allclose(again[INTERVAL], found[INTERVAL], atol=2e-4)
    assert set(found.index) == set(NAMES.values()) - {'default'}


def test_ablations_come_out_again(parts):
    rows, scores = parts
    for (dataset, part), table in scores.groupby(['dataset', 'part']):
        whole = scores[(scores.dataset == dataset) & (scores.part == 'default')]
        row = rows[(rows.dataset == dataset) & (rows.part == part)].sort_values('seed')
        dice = table.groupby('seed').dice.mean()
        assert row.dice.tolist() == pytest.approx(dice.tolist(), abs=1e-4), (dataset, part)
        for score, tolerance in (('dice', 2e-4), ('dice_shadow', 2e-4), ('hd95', 2e-2)):
            again = paired_difference(table, whole, score)
            found = {end: row[f'{score}_{end}'].iloc[0] for end in INTERVAL}
            expected = {end: again[end] for end in INTERVAL}
            assert found == pytest.approx(expected, abs=tolerance), (dataset, part, score)


@pytest.mark.parametrize('score, tail', [('dice_shadow', ''), ('loss', '_loss')])
@pytest.mark.parametrize('dataset', ['busi', 'ddti'])
def test_shadows_come_out_again(cases, dataset, score, tail):
    "By patient: Dice in imitated shadow, and what the shadow costs"
    found = read('stress_stats.csv')
    found = found[found.dataset == dataset].set_index('rival')
    again = differences(few_labels(cases, dataset), score).loc[found.index]
    np.testing.assert_allclose(again[INTERVAL], found[[end + tail for end in INTERVAL]], atol=2e-4)
    assert set(found.index) == set(NAMES.values()) - {'default'}


@pytest.mark.parametrize('dataset', ['busi', 'ddti'])
def test_means_in_shadow(cases, dataset):
    "The means of `stress.csv` at the coverage and depth of the comparison"
    level = read('stress.csv')
    level = level[(level.dataset == dataset) & (level.coverage == 0.4) & (level.depth_db == 30)]
    level = level.set_index(['method', 'seed']).dice.sort_index()
    mean = few_labels(cases, dataset).groupby(['method', 'seed']).dice_shadow.mean()
    np.testing.assert_allclose(mean, level, atol=1e-4)


def test_rivals_in_shadow_are_the_means_of_their_cases():
    key, scores = ['dataset', 'method', 'seed'], ['dice', 'hd95', 'dice_shadow', 'loss']
    rows = read('shadowed_rivals.csv').set_index(key)[scores].sort_index()
    mean = read('shadowed_rivals_cases.csv.gz').groupby(key)[scores].mean()
    np.testing.assert_allclose(mean, rows, atol=1e-3)


def test_each_rival_was_trained_on_another_processor_too(runs):
    both = read('other_processor.csv').merge(runs, on=RUN, suffixes=('_there', ''))
    assert len(both) == len(runs[~runs.method.isin(['default', 'published'])])
    assert (both.image_passes_there == both.image_passes).all()


# --- the README -------------------------------------------------------------------------------------------------------


def quoted():
    "{name of a method: the cells of its row} of the comparison in the README"
    lines = (ROOT / 'README.md').read_text().splitlines()
    rows = [line.strip('|').split('|') for line in lines if line.startswith('| ')]
    return {row[0].strip(): [cell.replace('**', '').strip() for cell in row] for row in rows if len(row) == 9}


def dice_columns(few, differences, dataset, method):
    "Dice with its standard deviation, the difference to default with its interval, HD95"
    row = few.loc[dataset, method]
    difference = ''
    if method != 'default':
        d = differences.loc[dataset, method]
        difference = f'+{d["diff"]:.3f} ({d.lo:.3f} to {d.hi:.3f})'
    return [f'{row.dice["mean"]:.3f} ± {row.dice["std"]:.3f}', difference, f'{row.hd95["mean"]:.1f}']


def shadow_column(stress, dataset, method):
    "Dice in shadow, and its loss against no shadow"
    dice = stress[dataset, method]
    dark = dice[0.4, 30.0]
    return f'{dark:.3f} ({dark - dice[0.0, 0.0]:.3f})'


@pytest.mark.parametrize('name', NAMES)
def test_the_readme_quotes_the_tables(runs, name):
    "The comparison in the README, number by number"
    few = runs[runs.label_fraction == 0.1].groupby(['dataset', 'method'])[['dice', 'hd95']].agg(['mean', 'std'])
    differences = read('compare_stats.csv').set_index(['dataset', 'rival'])
    stress = read('stress.csv').groupby(['dataset', 'method', 'coverage', 'depth_db']).dice.mean()
    want = [name]
    for dataset in ('busi', 'ddti'):
        want += dice_columns(few, differences, dataset, NAMES[name])
    want += [shadow_column(stress, dataset, NAMES[name]) for dataset in ('busi', 'ddti')]
    assert quoted()[name] == want
