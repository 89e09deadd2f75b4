"""Models of tables."""

from __future__ import annotations

from framework_cases.case import Case, constant


def sklearn():
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.linear_model._base import LinearClassifierMixin

    rows = np.random.default_rng(0).random((20, 4))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0.5)
    return constant(LinearClassifierMixin, "predict", lambda: model.predict(rows))


def xgboost():
    import numpy as np
    import xgboost

    rows = np.random.default_rng(0).random((20, 4))
    data = xgboost.DMatrix(rows, label=rows[:, 0])
    model = xgboost.train({"nthread": 1}, data, 2)
    return constant(xgboost.Booster, "predict", lambda: model.predict(data))


def lightgbm():
    import lightgbm
    import numpy as np

    rows = np.random.default_rng(0).random((60, 4))
    model = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(rows, rows[:, 0]), 2)
    return constant(lightgbm.Booster, "predict", lambda: model.predict(rows))


def catboost():
    import catboost
    import numpy as np

    rows = np.random.default_rng(0).random((60, 4))
    model = catboost.CatBoostRegressor(
        iterations=2, verbose=False, thread_count=1, allow_writing_files=False
    ).fit(rows, rows[:, 0])
    return constant(catboost.CatBoostRegressor, "predict", lambda: model.predict(rows))


CASES = {
    "sklearn": Case("sklearn", "`predict`", sklearn),
    "xgboost": Case("xgboost", "`Booster.predict`", xgboost),
    "lightgbm": Case("lightgbm", "`Booster.predict`", lightgbm),
    "catboost": Case("catboost", "`predict`", catboost),
}
