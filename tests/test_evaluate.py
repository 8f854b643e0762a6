"""Overlap, HD95 and ASD against plain loops that follow the definitions.

The masks touch the edges, are single pixels or are empty; the pixels are not square."""

import math
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage as ndi
from sabr.core import DataError
from sabr.judge.scores import SCORES, case_scores, mask_scores, summarise

SPACINGS = [(1.0, 1.0), (0.308, 0.154), (0.1, 1.7), (2.0, 0.25)]


def surface(mask):
    "Pixels of the mask that have a neighbour (of four) outside the mask or outside the image."
    height, width = mask.shape

    def inside(row, column):
        return 0 <= row < height and 0 <= column < width and mask[row, column]

    found = []
    for row, column in np.argwhere(mask).tolist():
        neighbours = ((row, column + 1), (row + 1, column), (row, column - 1), (row - 1, column))
        if not all(inside(*place) for place in neighbours):
            found.append((row, column))
    return found


def nearest(points, others, spacing):
    "Distance of each point to the nearest of the others."
    distances = []
    for row, column in points:
        distances.append(min(math.hypot((row - r) * spacing[0], (column - c) * spacing[1]) for r, c in others))
    return distances


def percentile95(values):
    "Interpolated linearly between the two nearest values."
    values = sorted(values)
    place = 0.95 * (len(values) - 1)
    i = int(place)
    return values[i] + (values[min(i + 1, len(values) - 1)] - values[i]) * (place - i)


def by_definition(pred, truth, spacing):
    "The scores, without any of the code under test."
    pred_surface, true_surface = surface(pred), surface(truth)
    one, other = nearest(pred_surface, true_surface, spacing), nearest(true_surface, pred_surface, spacing)
    hits = sum(bool(p and t) for p, t in zip(pred.ravel(), truth.ravel()))
    predicted, true = int(pred.sum()), int(truth.sum())
    return dict(
        dice=2 * hits / (predicted + true),
        jaccard=hits / (predicted + true - hits),
        precision=hits / predicted,
        recall=hits / true,
        hd95=max(percentile95(one), percentile95(other)),
        asd=sum(one + other) / len(one + other),
    )


def check(pred, truth, spacing):
    got, want = mask_scores(pred, truth, spacing), by_definition(pred, truth, spacing)
    for score in SCORES:
        assert got[score] == pytest.approx(want[score], rel=1e-5, abs=1e-6), score
    assert got['unit'] == 'mm' and got['miss'] is False


def box(shape, rows, columns):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize('seed', range(12))
def test_ragged_masks(seed, spacing):
    "Several pieces, holes, pixels at the edges."
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, *rng.integers(8, 28, 2)))
    sigma = rng.uniform(0, 2)
    pred, truth = ndi.gaussian_filter(noise, (0, sigma, sigma)) > 0
    check(pred, truth, spacing)


@pytest.mark.parametrize('spacing', SPACINGS)
@pytest.mark.parametrize(
    'pred,truth',
    [
        (((0, 5), (0, 6)), ((0, 9), (0, 4))),  # both in a corner
        (((0, 5), (0, 6)), ((15, 20), (20, 30))),  # in opposite corners
        (((0, 20), (0, 30)), ((6, 12), (5, 20))),  # the whole image
        (((0, 20), (0, 30)), ((0, 20), (0, 30))),
        (((0, 20), (7, 8)), ((0, 20), (25, 26))),  # lines of one pixel, from edge to edge
        (((0, 1), (0, 30)), ((19, 20), (0, 30))),
        (((3, 4), (4, 5)), ((3, 4), (4, 5))),  # single pixels
        (((0, 1), (0, 1)), ((19, 20), (29, 30))),
        (((3, 4), (4, 5)), ((8, 16), (9, 20))),
    ],
)
def test_edges_and_single_pixels(pred, truth, spacing):
    check(box((20, 30), *pred), box((20, 30), *truth), spacing)


def test_spacing_is_rows_first():
    pred, truth = box((20, 30), (4, 5), (4, 5)), box((20, 30), (14, 15), (4, 5))  # ten rows apart
    assert mask_scores(pred, truth, (0.5, 3.0))['hd95'] == pytest.approx(5)
    assert mask_scores(pred.T, truth.T, (0.5, 3.0))['hd95'] == pytest.approx(30)
    assert mask_scores(pred, truth)['hd95'] == 10 and mask_scores(pred, truth)['unit'] == 'px'


@pytest.mark.parametrize('shift', [(0, 0), (0, 70), (90, 0), (90, 70), (37, 41)])
def test_place_in_the_image_changes_nothing(shift):
    "The same masks in a larger image, at its edges or in the middle."
    small = [box((20, 30), (2, 15), (5, 25)), box((20, 30), (0, 12), (9, 30))]
    rows, columns = shift
    large = [np.pad(mask, ((rows, 90 - rows), (columns, 70 - columns))) for mask in small]
    assert mask_scores(*large, (0.3, 0.15)) == mask_scores(*small, (0.3, 0.15))


@pytest.mark.parametrize(
    'spacing,diagonal', [(None, 50.0), ((0.1, 0.1), 5.0), ((0.4, 0.4), 20.0), ((1.0, 0.75), 30 * math.sqrt(2))]
)
def test_empty_masks(spacing, diagonal):
    nothing, something = np.zeros((30, 40), bool), box((30, 40), (3, 9), (3, 9))
    both = mask_scores(nothing, nothing, spacing)
    assert [both[score] for score in SCORES] == [1, 1, 1, 1, 0, 0] and both['miss'] is False
    for missed in (mask_scores(nothing, something, spacing), mask_scores(something, nothing, spacing)):
        assert [missed[score] for score in SCORES] == pytest.approx([0, 0, 0, 0, diagonal, diagonal])
        assert missed['miss'] is True
    farthest = mask_scores(box((30, 40), (0, 1), (0, 1)), box((30, 40), (29, 30), (39, 40)), spacing)
    assert farthest['hd95'] < diagonal and not farthest['miss']


def test_background_and_other_classes_do_not_count():
    truth = np.zeros((20, 20), int)
    truth[2:8, 2:8] = 1
    truth[10:18, 10:18] = 2
    pred = truth.copy()
    pred[pred == 2] = 0
    found, missed = case_scores(pred, truth, ['background', 'a', 'b'])
    assert found['dice'] == 1 and found['hd95'] == 0 and not found['miss']
    assert missed['dice'] == 0 and missed['miss'] and missed['hd95'] == pytest.approx(20 * math.sqrt(2))


def test_labels_of_small_integer_types():
    "uint8 labels, as `predict` returns them, give the same scores as int64 labels."
    rng = np.random.default_rng(0)
    pred, truth = rng.integers(0, 3, (2, 24, 24))
    names = ['background', 'a', 'b']
    assert case_scores(pred.astype(np.uint8), truth.astype(np.uint8), names) == case_scores(pred, truth, names)


@pytest.mark.parametrize(
    'pred,truth,spacing,message',
    [
        (np.zeros((8, 8), int), np.zeros((8, 9), int), None, 'native size'),
        (np.zeros((1, 8, 8), int), np.zeros((1, 8, 8), int), None, r'\(H,W\)'),
        (np.full((8, 8), 2), np.zeros((8, 8), int), None, 'prediction holds labels from 2 to 2'),
        (np.zeros((8, 8), int), np.full((8, 8), 255), None, 'truth holds labels from 255 to 255'),
        (np.zeros((8, 8), int), np.zeros((8, 8), int), (0.3, 0.3, 1.0), 'spacing'),
        (np.zeros((8, 8), int), np.zeros((8, 8), int), (0.3, -1.0), 'spacing'),
    ],
)
def test_maps_that_cannot_be_compared(pred, truth, spacing, message):
    with pytest.raises(DataError, match=message):
        case_scores(pred, truth, ['background', 'lesion'], spacing)


def test_summary_by_hand():
    "Each case is averaged over its classes first. The standard deviation is the one between cases."
    dice = {('x', 'a'): 0.9, ('x', 'b'): 0.5, ('y', 'a'): 0.8, ('y', 'b'): 0.4, ('z', 'a'): 1.0, ('z', 'b'): 0.0}
    rows = [
        {'case': case, 'class': name, **dict.fromkeys(SCORES, value), 'unit': 'mm', 'miss': value == 0}
        for (case, name), value in dice.items()
    ]
    summary = summarise(pd.DataFrame(rows))
    mean, classes = summary['mean'], summary['classes']
    assert mean['dice'] == pytest.approx(0.6)
    assert mean['dice_sd'] == pytest.approx(np.std([0.7, 0.6, 0.5], ddof=1))
    assert classes['a']['dice'] == pytest.approx(0.9) and classes['b']['n_misses'] == 1
    assert (summary['n_cases'], summary['n_misses'], mean['n_misses'], summary['unit']) == (3, 1, 1, 'mm')
