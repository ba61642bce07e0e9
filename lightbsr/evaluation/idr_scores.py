"""How well representations tell degradations apart, in numbers; all from scikit-learn, with fixed seeds.

Images are never split between training and test: what a score finds is the degradation, not the content.
"""

import numpy as np
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightbsr_compat import InputError

_FOLDS, _NEIGHBOURS, _MIN_IMAGES = 5, 5, 4


def idr_scores(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, targets: dict[str, np.ndarray]
) -> dict[str, float]:
    """Scores of one representation.

    Args:
        features: (N, C) one vector per image and degradation.
        labels: (N,) number of the degradation.
        groups: (N,) number of the image.
        targets: name -> (N,) what a linear probe shall read off the features, such as sigma.

    Returns:
        silhouette: -1 to 1, higher is better: how much nearer a vector is to its own degradation's than to the next's.
        knn_accuracy: 0 to 1, of 5 nearest neighbours among other images; chance is one over the number of degradations.
        NAME_error: mean absolute error of ridge regression on other images, in the unit of the target.
        NAME_share: that error as a share of the error of always guessing the mean.

    Raises:
        InputError: too few images or degradations.
    """
    images, degradations = len(np.unique(groups)), len(np.unique(labels))
    if images < _MIN_IMAGES or degradations < 2:
        raise InputError(
            f"there are {images} images under {degradations} degradations, but scores of a representation need at"
            f" least {_MIN_IMAGES} images and 2 degradations"
        )
    folds = GroupKFold(min(_FOLDS, images))

    def predict(model, target: np.ndarray) -> np.ndarray:
        return cross_val_predict(make_pipeline(StandardScaler(), model), features, target, groups=groups, cv=folds)

    # The neighbours must be fewer than the training images of one degradation.
    neighbours = min(_NEIGHBOURS, images - images // folds.get_n_splits() - 1)
    scores = {
        "silhouette": float(silhouette_score(StandardScaler().fit_transform(features), labels)),
        "knn_accuracy": float((predict(KNeighborsClassifier(neighbours), labels) == labels).mean()),
    }
    for name, target in targets.items():
        error, of_mean = (float(np.abs(predict(m, target) - target).mean()) for m in (Ridge(), DummyRegressor()))
        scores |= {f"{name}_error": error, f"{name}_share": error / of_mean}
    return scores


def tsne(features: np.ndarray) -> np.ndarray:
    """Two coordinates per vector for a picture: (N, C) -> (N, 2), t-SNE of the standardised features."""
    scaled = StandardScaler().fit_transform(features)
    init = "pca" if features.shape[1] > 1 else "random"
    return TSNE(2, perplexity=min(30.0, (len(features) - 1) / 3), init=init, random_state=0).fit_transform(scaled)
