"""The committed measurements agree with each other and with the README.

Means are those of the cases, differences come out again when computed anew. The README quotes four methods from the
tables, and the README of the results quotes all of them.
"""

from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from sabr.judge.statistics import difference_table, paired_difference

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'nbs' / 'experiments' / 'results'
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
}  # in the READMEs -> in the tables
RUN = ['dataset', 'method', 'label_fraction', 'seed']
INTERVAL = ['diff', 'lo', 'hi']


def read(name):
    return pd.read_csv(RESULTS / name, dtype=dict(case=str, patient=str))


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


# --- the READMEs ------------------------------------------------------------------------------------------------------

IN_README = ('default', 'ICT', 'supervised only', 'published')


def quoted(path, n_columns):
    "{name of a method: the cells of its row} of the comparison in a file, whose table has so many columns"
    rows = [line.strip('|').split('|') for line in path.read_text().splitlines() if line.startswith('| ')]
    cells = [[cell.replace('**', '').strip() for cell in row] for row in rows if len(row) == n_columns]
    return {row[0]: row for row in cells if row[0] in NAMES}


def mean_sd(dice):
    "The mean of the seeds with their standard deviation"
    return f'{dice.mean():.3f} ± {dice.std():.3f}'


@pytest.fixture(scope='module')
def comparison(runs):
    "name -> {column: text}, as a README should have it"
    few = runs[runs.label_fraction == 0.1].set_index(['dataset', 'method']).sort_index()
    busbra = read('busbra_quick.csv')
    busbra = busbra[busbra.label_fraction == 0.1].set_index('method').dice
    differences = read('compare_stats.csv').set_index(['dataset', 'rival'])
    stress = read('stress.csv').groupby(['dataset', 'method', 'coverage', 'depth_db']).dice.mean()
    texts = {}
    for name, method in NAMES.items():
        texts[name] = dict(name=name, busbra=mean_sd(busbra[method]))
        for dataset in ('busi', 'ddti'):
            columns = columns_of(few.loc[dataset, method], differences, stress, dataset, method)
            texts[name] |= {f'{dataset}_{column}': text for column, text in columns.items()}
    return texts


def columns_of(runs, differences, stress, dataset, method):
    "Dice, its lead of default with an interval, HD95, and Dice in shadow with its loss, of one method on one data set"
    lead = ''
    if method != 'default':
        d = differences.loc[dataset, method]
        lead = f'+{d["diff"]:.3f} ({d.lo:.3f} to {d.hi:.3f})'
    clear, dark = stress[dataset, method][0.0, 0.0], stress[dataset, method][0.4, 30.0]
    hd95 = f'{runs.hd95.mean():.1f}'
    return dict(dice=mean_sd(runs.dice), lead=lead, hd95=hd95, shadow=f'{dark:.3f} ({dark - clear:.3f})')


@pytest.mark.parametrize('name', NAMES)
def test_the_results_quote_the_tables(comparison, name):
    "The comparison of all methods in the README of the results, number by number"
    columns = 'name busi_dice busi_lead busi_hd95 ddti_dice ddti_lead ddti_hd95 busi_shadow ddti_shadow'.split()
    assert quoted(RESULTS / 'README.md', 9)[name] == [comparison[name][column] for column in columns]


@pytest.mark.parametrize('name', IN_README)
def test_the_readme_quotes_the_tables(comparison, name):
    "The comparison in the README, number by number"
    columns = 'name busi_dice busi_lead ddti_dice ddti_lead busbra busi_shadow ddti_shadow'.split()
    assert quoted(ROOT / 'README.md', 8)[name] == [comparison[name][column] for column in columns]


def test_the_readme_has_four_methods():
    assert set(quoted(ROOT / 'README.md', 8)) == set(IN_README)
