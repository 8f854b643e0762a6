"""The widgets without a browser: the tests set the values of controls and look at what would be on the screen.

The run behind the case browser is made by hand in seconds, from untrained networks and their real scores."""

import io
import shutil
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from ipywidgets import Widget
from PIL import Image
from sabr.look import images as drawing, widgets
from sabr.nets.boundary import RefineNet
from sabr.data.cache import build_cache
from sabr.run.config import RunConfig, open_run
from sabr.core import ConfigError, DataError
from sabr.data.decode import read_image, read_mask
from sabr.data.readers import read_cases
from sabr.judge.scores import score_cases
from sabr.use.predict import Predictor
from sabr.nets.presets import preset
from sabr.nets.sabr import SABRNet
from sabr.nets.weights import save_weights
from sabr.data.phantom import make_phantom
from sabr.shadow.geometry import geometries
from sabr.data.split import draw_labelled, save_splits, split_cases

STAGES = ('baseline', 'pretrain', 'finetune', 'refine', 'refine_best')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "The folder of a run that was tested."
    top = tmp_path_factory.mktemp('widgets')
    cfg = RunConfig(
        out_dir=str(top / 'run'),
        data_path=str(top / 'data'),
        image_size=32,
        device='cpu',
        data_options=dict(n_patients=6, size=64),
    )
    cases, cache = build_cache(
        read_cases(cfg.dataset, cfg.data_path, **cfg.data_options), 32, top / 'cache', progress=False
    )
    cases = draw_labelled(split_cases(cases), 0.5)
    out = open_run(cfg, cache.fingerprint)
    save_splits(cases, out / 'splits.csv')
    tables = []
    for i, stage in enumerate(STAGES):
        torch.manual_seed(i)
        net = SABRNet(preset('tiny', n_classes=4))
        meta = dict(classes=cases.attrs['classes'], image_size=32)
        if stage.startswith('refine'):
            net = RefineNet(net, 32)
            meta['refine_size'] = 32
        save_weights(net, out / f'{stage}.safetensors', **meta)
        predict = Predictor(out / f'{stage}.safetensors', device='cpu')
        scored = score_cases(cases[cases.split != 'train'], lambda row, image: predict(image), progress=False)
        tables.append(scored.assign(stage=stage))
    pd.concat(tables).to_csv(out / 'per_case.csv', index=False)
    return out


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    plt.close('all')
    yield
    left = plt.get_fignums()
    plt.close('all')
    assert not left, 'a widget left figures open: each redraw would cost memory'


@pytest.fixture
def calls(monkeypatch):
    "The calls of the plain functions: (name, positional arguments, named arguments)."
    noted = []

    def watch(name):
        function = getattr(widgets, name)

        def watched(*args, **kwargs):
            noted.append((name, args, kwargs))
            return function(*args, **kwargs)

        monkeypatch.setattr(widgets, name, watched)

    watch('shadow_view')
    watch('case_view')
    return noted


@pytest.fixture(scope='module')
def heart():
    images = np.stack([make_phantom(0, i, size=64).image for i in range(2)])
    return images, geometries(images)


def picture(page):
    "The pixels that a page shows."
    return np.asarray(Image.open(io.BytesIO(page.picture.value)).convert('RGB'))


def drawn(fig, i, layer=0):
    "The pixels of a layer of panel `i`."
    return np.asarray(fig.axes[i].images[layer].get_array())


# shadows


def test_every_slider_calls_the_plain_function(heart, calls):
    page = widgets.shadow_explorer(*heart)
    assert len(calls) == 1 and calls[0][2] == dict(mode='acoustic', coverage=0.3, strength_db=20, seed=0)
    pixels = picture(page)
    assert pixels.shape[1] > 300 and pixels.std() > 20
    for name, value in dict(mode='freeform', coverage=0.6, seed=3, image=1).items():
        before, old = len(calls), page.picture.value
        page.controls[name].value = value
        assert len(calls) == before + 1 and page.picture.value != old
        if name != 'image':
            assert calls[-1][2][name] == value
    image, geometry = calls[-1][1]
    assert (image == heart[0][1]).all() and (geometry == heart[1][1]).all()


def test_the_picture_is_that_of_the_plain_function(heart):
    page = widgets.shadow_explorer(*heart)
    page.controls['coverage'].value = 0.45
    page.controls['strength_db'].value = 33
    fig = widgets.shadow_view(heart[0][0], heart[1][0], coverage=0.45, strength_db=33)
    assert page.picture.value == widgets.png(fig)


def test_setting_the_same_value_draws_nothing(heart, calls):
    page = widgets.shadow_explorer(*heart)
    page.controls['seed'].value = 0
    assert len(calls) == 1


@pytest.mark.parametrize('mode', ['acoustic', 'freeform'])
@pytest.mark.parametrize('coverage', [0, 0.05, 0.4, 0.8])
def test_any_coverage_can_be_drawn(heart, mode, coverage):
    fig = widgets.shadow_view(heart[0][0], heart[1][0], mode, coverage)
    plt.close(fig)
    hidden = (drawn(fig, 2) == drawing.HIDDEN).all(-1).mean()
    assert hidden <= coverage + 0.06 and (hidden > 0) == (coverage > 0)


def test_uint8_and_float_are_the_same_image(heart):
    images, geoms = heart
    of_uint8 = widgets.shadow_view(images[0], geoms[0])
    of_float = widgets.shadow_view(images[0] / np.float32(255), geoms[0])
    plt.close('all')
    assert np.allclose(drawn(of_uint8, 1), drawn(of_float, 1))


def test_stronger_occluders_are_darker(heart):
    mean = [drawn(widgets.shadow_view(heart[0][0], heart[1][0], strength_db=db), 1).mean() for db in (3, 12, 40)]
    plt.close('all')
    assert mean[0] > mean[1] > mean[2]


def test_unknown_mode(heart):
    with pytest.raises(ConfigError, match="Did you mean 'acoustic'"):
        widgets.shadow_view(heart[0][0], heart[1][0], 'acustic')


def test_one_image_is_enough(heart):
    assert widgets.shadow_explorer(heart[0][:1], heart[1][:1]).picture.value


# table


@pytest.mark.parametrize('stage,split', [('', 'test'), ('finetune', 'test'), ('refine_best', 'valid')])
def test_table(run, stage, split):
    table = widgets.browse_table(run, stage, split)
    assert list(table.columns) == ['case', 'patient', 'dice', 'lv', 'myo', 'la'] and table.dice.is_monotonic_increasing
    raw = pd.read_csv(run / 'per_case.csv')
    raw = raw[(raw.stage == (stage or 'refine')) & (raw.split == split)]
    assert np.allclose(table.set_index('case').dice, raw.groupby('case').dice.mean()[table.case])
    assert set(table.case) == set(raw.case)
    assert all(case.startswith(patient) for case, patient in zip(table.case, table.patient))


def test_stage_of_the_headline(run, tmp_path):
    "The final stage is the best one if the run was made with select='best'."
    shutil.copytree(run, tmp_path / 'r')
    path = tmp_path / 'r' / 'config.json'
    path.write_text(path.read_text().replace('"select": "last"', '"select": "best"'))
    assert widgets.browse_table(tmp_path / 'r').equals(widgets.browse_table(run, 'refine_best'))


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(DataError, match="no stage 'finetun'. Did you mean 'finetune'"):
        widgets.browse_table(run, 'finetun')
    with pytest.raises(DataError, match='was not tested'):
        widgets.load_run(tmp_path)
    (tmp_path / 'per_case.csv').touch()
    with pytest.raises(DataError, match='config.json'):
        widgets.load_run(tmp_path)


# cases


def test_case_view_shows_what_was_predicted(run):
    opened = widgets.load_run(run)
    row = opened.cases[opened.cases.split == 'test'].iloc[0]
    fig = widgets.case_view(opened, row.case)
    plt.close(fig)
    assert np.allclose(drawn(fig, 0), read_image(row.image))
    assert [ax.get_title() for ax in fig.axes] == ['image', 'prediction', 'truth', 'boundary']
    colours = drawing.class_colours(4)
    pred = Predictor(run / 'refine.safetensors', device='cpu')(row.image)
    truth = read_mask(row['mask'], opened.cases.attrs['labels'], 4)
    for i, labels in ((1, pred), (2, truth)):
        rgba = drawn(fig, i, 1)
        assert np.allclose(rgba[..., :3], colours[labels][..., :3])
        assert ((rgba[..., 3] > 0) == (labels > 0)).all()
    assert fig.axes[0].get_aspect() == pytest.approx(row.spacing[0] / row.spacing[1])


def test_case_view_of_a_folder_of_another_stage_and_of_a_training_case(run):
    opened = widgets.load_run(run)
    case = opened.cases.case[opened.cases.split == 'train'].iloc[0]
    fig = widgets.case_view(run, case, 'finetune')
    plt.close(fig)
    assert fig.get_suptitle() == f'{case}   (finetune)'  # was not scored
    with pytest.raises(DataError, match='has no case'):
        widgets.case_view(run, 'patient9999')
    with pytest.raises(DataError, match='nothing.safetensors'):
        widgets.case_view(run, case, 'nothing')


def test_browser(run, calls):
    page = widgets.case_browser(run)
    case, stage = page.controls['case'], page.controls['stage']
    worst = widgets.browse_table(run)
    assert [value for _, value in case.options] == list(worst.case)
    assert case.value == worst.case[0] and stage.value == 'refine'
    assert case.options[0][0].startswith(f'{worst.dice[0]:.3f}')
    assert calls[-1][2] == dict(stage='refine', case=worst.case[0])
    old = page.picture.value
    case.value = worst.case[1]
    assert page.picture.value != old and calls[-1][2]['case'] == worst.case[1]
    stage.value = 'baseline'  # sorted anew, the case stays chosen
    assert [v for _, v in case.options] == list(widgets.browse_table(run, 'baseline').case)
    assert calls[-1][2] == dict(stage='baseline', case=worst.case[1]) and picture(page).std() > 20


def test_browser_reads_weights_once(run, monkeypatch):
    made = []
    monkeypatch.setattr(widgets, 'Predictor', lambda *a, **kw: made.append(a) or Predictor(*a, **kw))
    page = widgets.case_browser(run)
    for _, c in page.controls['case'].options[:3]:
        page.controls['case'].value = c
    assert len(made) == 1


def test_browser_of_validation_cases(run):
    opened = widgets.load_run(run)
    page = widgets.case_browser(opened, 'valid')
    assert {v for _, v in page.controls['case'].options} == set(opened.cases.case[opened.cases.split == 'valid'])


def test_a_missing_file_is_named_on_the_page(run, tmp_path):
    data = shutil.copytree(run.parent / 'data', tmp_path / 'data')
    opened = widgets.load_run(run, data)
    worst = widgets.browse_table(opened).case
    next(data.rglob(f'{worst[0]}.png')).unlink()
    page = widgets.case_browser(opened)
    assert (
        page.picture.value == b'' and f'{worst[0]}.png' in page.message.value and 'no such file' in page.message.value
    )
    page.controls['case'].value = worst[1]
    assert page.picture.value and page.message.value == ''


def test_run_and_data_may_move(run, tmp_path):
    shutil.copytree(run, tmp_path / 'elsewhere')
    shutil.copytree(run.parent / 'data', tmp_path / 'data')
    opened = widgets.load_run(tmp_path / 'elsewhere', tmp_path / 'data')
    assert all(str(tmp_path) in f for f in opened.cases.image) and opened.folder == tmp_path / 'elsewhere'
    plt.close(widgets.case_view(opened, opened.cases.case[0]))


def test_cases_that_were_left_out_stay_out(run, tmp_path):
    "A run with on_bad='warn' has fewer cases than its folder."
    shutil.copytree(run, tmp_path / 'r')
    splits = pd.read_csv(run / 'splits.csv')
    gone = splits.case[splits.split == 'train'].iloc[0]
    splits[splits.case != gone].to_csv(tmp_path / 'r' / 'splits.csv', index=False)
    assert gone not in set(widgets.load_run(tmp_path / 'r').cases.case)


# what reaches the browser


def test_pages_can_be_sent(run, heart):
    "What is sent to JupyterLab has every widget of a page, with pictures as PNG."
    for page in (widgets.shadow_explorer(*heart), widgets.case_browser(run)):
        state = Widget.get_manager_state(widgets=[page, *page.children])['state']
        assert {page.model_id, page.picture.model_id} <= set(state)
        assert page.picture.format == 'png' and page.picture.value[:4] == b'\x89PNG'
        assert all(part in page.children for part in (*page.controls.values(), page.picture, page.message))
